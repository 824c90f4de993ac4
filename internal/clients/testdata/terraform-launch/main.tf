# Launch templates, placement groups, DHCP options, and the options of instances.

terraform {
  required_providers {
    aws = { source = "hashicorp/aws" }
  }
}

variable "endpoint" {}
variable "public_key" {}
variable "port" { default = 80 }
variable "monitoring" { default = true }
variable "credits" { default = "standard" }
variable "domain" { default = "corp.example.com" }
variable "hops" { default = 2 }

provider "aws" {
  region                  = "us-east-1"
  skip_metadata_api_check = true
  endpoints {
    ec2 = var.endpoint
    sts = var.endpoint
    ssm = var.endpoint
  }
  default_tags {
    tags = { By = "terraform" }
  }
}

data "aws_ec2_instance_type_offering" "small" {
  filter {
    name   = "instance-type"
    values = ["t2.micro", "t3.micro", "t3.small"]
  }
  preferred_instance_types = ["t3.micro", "t2.micro"]
}

data "aws_ec2_instance_type_offerings" "zones" {
  location_type = "availability-zone"
  filter {
    name   = "instance-type"
    values = [data.aws_ec2_instance_type_offering.small.instance_type]
  }
}

data "aws_ec2_instance_type" "small" {
  instance_type = data.aws_ec2_instance_type_offering.small.instance_type
}

data "aws_ec2_instance_types" "arm" {
  filter {
    name   = "burstable-performance-supported"
    values = ["true"]
  }
  filter {
    name   = "processor-info.supported-architecture"
    values = ["arm64"]
  }
}

resource "aws_vpc" "main" {
  cidr_block = "10.40.0.0/16"
}

resource "aws_vpc_dhcp_options" "main" {
  domain_name         = var.domain
  domain_name_servers = ["AmazonProvidedDNS", "10.40.0.2"]
  ntp_servers         = ["169.254.169.123"]
  netbios_node_type   = 2
}

resource "aws_vpc_dhcp_options_association" "main" {
  vpc_id          = aws_vpc.main.id
  dhcp_options_id = aws_vpc_dhcp_options.main.id
}

resource "aws_subnet" "main" {
  vpc_id            = aws_vpc.main.id
  cidr_block        = "10.40.1.0/24"
  availability_zone = sort(data.aws_ec2_instance_type_offerings.zones.locations)[0]
}

resource "aws_security_group" "web" {
  vpc_id = aws_vpc.main.id
  name   = "web"
  ingress {
    from_port   = var.port
    to_port     = var.port
    protocol    = "tcp"
    cidr_blocks = ["10.40.0.0/16"]
  }
}

resource "aws_security_group" "client" {
  vpc_id = aws_vpc.main.id
  name   = "client"
  egress {
    from_port   = 0
    to_port     = 0
    protocol    = "-1"
    cidr_blocks = ["0.0.0.0/0"]
  }
}

resource "aws_placement_group" "parts" {
  name            = "parts"
  strategy        = "partition"
  partition_count = 3
}

resource "aws_launch_template" "web" {
  name                   = "web"
  image_id               = "ami-eca54085"
  instance_type          = data.aws_ec2_instance_type.small.instance_type
  update_default_version = true
  ebs_optimized          = true
  monitoring {
    enabled = var.monitoring
  }
  credit_specification {
    cpu_credits = var.credits
  }
  cpu_options {
    core_count       = data.aws_ec2_instance_type.small.default_cores
    threads_per_core = 2
  }
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = var.hops
    instance_metadata_tags      = "enabled"
  }
  maintenance_options {
    auto_recovery = "disabled"
  }
  network_interfaces {
    device_index                = 0
    subnet_id                   = aws_subnet.main.id
    security_groups             = [aws_security_group.web.id]
    associate_public_ip_address = false
    delete_on_termination       = true
  }
  block_device_mappings {
    device_name = "/dev/sdf"
    ebs {
      volume_size           = 20
      volume_type           = "gp3"
      delete_on_termination = true
    }
  }
  tag_specifications {
    resource_type = "instance"
    tags          = { Name = "web" }
  }
}

resource "aws_instance" "web" {
  launch_template {
    id      = aws_launch_template.web.id
    version = "1"
  }
  tags = { Name = "web" }
}

resource "aws_instance" "client" {
  ami                                  = "ami-eca54085"
  instance_type                        = data.aws_ec2_instance_type.small.instance_type
  subnet_id                            = aws_subnet.main.id
  vpc_security_group_ids               = [aws_security_group.client.id]
  monitoring                           = var.monitoring
  placement_group                      = aws_placement_group.parts.name
  placement_partition_number           = 2
  instance_initiated_shutdown_behavior = "terminate"
  credit_specification {
    cpu_credits = var.credits
  }
  metadata_options {
    http_tokens                 = "required"
    http_put_response_hop_limit = var.hops
  }
  maintenance_options {
    auto_recovery = var.monitoring ? "disabled" : "default"
  }
  tags = { Name = "client" }
}

output "instances" {
  value = [
    { id = aws_instance.web.id, private = aws_instance.web.private_ip, public = aws_instance.web.public_ip },
    { id = aws_instance.client.id, private = aws_instance.client.private_ip, public = aws_instance.client.public_ip },
  ]
}

output "arm" {
  value = join(" ", sort(data.aws_ec2_instance_types.arm.instance_types))
}
