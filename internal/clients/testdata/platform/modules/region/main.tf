# The same platform in each region: a network in three zones, groups, and one instance of each tier.

terraform {
  required_providers {
    aws = { source = "hashicorp/aws" }
  }
}

variable "name" { type = string }
variable "cidr" { type = string }
variable "database_cidr" { type = string }
variable "public_key" { type = string }
variable "web_port" { type = string }
variable "visitors" { type = list(string) }
variable "partners" { type = number }
variable "app_from_web" { type = bool }
variable "without_partner" { type = number }
variable "acl_rule" { type = number }
variable "template_disk" { type = number }

data "aws_region" "current" {}

data "aws_availability_zones" "available" {
  state = "available"
  filter {
    name   = "opt-in-status"
    values = ["opt-in-not-required"]
  }
}

data "aws_ami" "amazon" {
  most_recent = true
  owners      = ["amazon"]
  filter {
    name   = "name"
    values = ["al2023-ami-2023*-x86_64"]
  }
  filter {
    name   = "virtualization-type"
    values = ["hvm"]
  }
}

data "aws_ami" "ubuntu" {
  most_recent = true
  owners      = ["099720109477"]
  filter {
    name   = "name"
    values = ["ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-amd64-server-*"]
  }
  filter {
    name   = "root-device-type"
    values = ["ebs"]
  }
}

data "aws_ssm_parameter" "amazon" {
  name = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
}

data "aws_ec2_instance_type" "app" {
  instance_type = "t3.micro"
}

locals {
  partners = [for n in range(var.partners) : n if n != var.without_partner]
  azs      = slice(data.aws_availability_zones.available.names, 0, 3)
  tags     = { Project = var.name, Region = data.aws_region.current.name }
}

module "vpc" {
  source           = "../vpc"
  name             = var.name
  cidr             = var.cidr
  secondary_cidrs  = [var.database_cidr]
  azs              = local.azs
  public_subnets   = [for n in range(3) : cidrsubnet(var.cidr, 8, n)]
  private_subnets  = [for n in range(3) : cidrsubnet(var.cidr, 8, n + 10)]
  database_subnets = [for n in range(3) : cidrsubnet(var.database_cidr, 4, n)]
  domain_name      = "${var.name}.internal"
  default_acl_rules = [
    { number = var.acl_rule, action = "allow", protocol = "-1", from = 0, to = 0, cidr = "0.0.0.0/0" },
    { number = 101, action = "allow", protocol = "-1", from = 0, to = 0, ipv6 = "::/0" },
  ]
  tags = local.tags
}

module "web" {
  source             = "../security_group"
  name               = "${var.name}-web"
  description        = "Web servers"
  vpc_id             = module.vpc.vpc_id
  ingress_rules      = [var.web_port]
  ingress_cidrs      = var.visitors
  ingress_ipv6_cidrs = ["::/0"]
  ingress            = { icmp6 = { protocol = "icmpv6", from = -1, to = -1, ipv6 = "::/0" } }
  tags               = local.tags
}

module "bastion" {
  source  = "../security_group"
  name    = "${var.name}-bastion"
  vpc_id  = module.vpc.vpc_id
  ingress = { ssh = { protocol = "tcp", from = 22, to = 22, ipv4 = "203.0.113.0/24" } }
  tags    = local.tags
}

module "app" {
  source              = "../security_group"
  name                = "${var.name}-app"
  vpc_id              = module.vpc.vpc_id
  ingress_from_groups = merge({ ssh = { rule = "ssh-tcp", group = module.bastion.id } }, var.app_from_web ? { http = { rule = "app-8000-tcp", group = module.web.id } } : {})
  ingress_from_self   = ["all-all"]
  tags                = local.tags
}

module "database" {
  source = "../security_group"
  name   = "${var.name}-database"
  vpc_id = module.vpc.vpc_id
  ingress = {
    postgresql = { protocol = "tcp", from = 5432, to = 5432, group = module.app.id }
    cluster    = { protocol = "-1", self = true }
  }
  egress = { vpc = { protocol = "-1", ipv4 = var.cidr } }
  tags   = local.tags
}

# Many rules: a port for each partner, by IPv4 and IPv6, in two groups.
module "partners" {
  source = "../security_group"
  count  = 2
  name   = "${var.name}-partners-${count.index}"
  vpc_id = module.vpc.vpc_id
  ingress = merge(
    { for n in local.partners : format("partner-%02d", n) => { protocol = "tcp", from = 9000 + 100 * count.index + n, to = 9000 + 100 * count.index + n, ipv4 = "198.51.100.${n}/32" } },
    { for n in local.partners : format("partner6-%02d", n) => { protocol = "tcp", from = 9000 + 100 * count.index + n, to = 9000 + 100 * count.index + n, ipv6 = "2001:db8:${n + 1}::/48" } },
  )
  egress = {}
  tags   = local.tags
}

resource "aws_key_pair" "this" {
  key_name_prefix = "${var.name}-"
  public_key      = var.public_key
  tags            = local.tags
}

resource "aws_launch_template" "web" {
  name_prefix                          = "${var.name}-web-"
  image_id                             = data.aws_ami.amazon.id
  instance_type                        = "t3.micro"
  key_name                             = aws_key_pair.this.key_name
  vpc_security_group_ids               = [module.web.id, module.partners[0].id, module.partners[1].id]
  update_default_version               = true
  ebs_optimized                        = true
  instance_initiated_shutdown_behavior = "terminate"
  block_device_mappings {
    device_name = data.aws_ami.amazon.root_device_name
    ebs {
      volume_size           = var.template_disk
      volume_type           = "gp3"
      encrypted             = true
      delete_on_termination = true
    }
  }
  monitoring {
    enabled = true
  }
  metadata_options {
    http_endpoint = "enabled"
    http_tokens   = "required"
  }
  credit_specification {
    cpu_credits = "standard"
  }
  tag_specifications {
    resource_type = "instance"
    tags          = merge({ Name = "${var.name}-web" }, local.tags)
  }
  tag_specifications {
    resource_type = "volume"
    tags          = local.tags
  }
  tags = local.tags
}

resource "aws_instance" "web" {
  subnet_id = module.vpc.public_subnets[0]
  launch_template {
    id      = aws_launch_template.web.id
    version = aws_launch_template.web.latest_version
  }
  tags       = merge({ Name = "${var.name}-web" }, local.tags)
  depends_on = [module.vpc]
}

resource "aws_instance" "bastion" {
  ami                    = data.aws_ami.ubuntu.id
  instance_type          = "t3.micro"
  key_name               = aws_key_pair.this.key_name
  subnet_id              = module.vpc.public_subnets[1]
  private_ip             = cidrhost(cidrsubnet(var.cidr, 8, 1), 10)
  vpc_security_group_ids = [module.bastion.id]
  availability_zone      = local.azs[1]
  tenancy                = "default"
  root_block_device {
    volume_size = 20
    volume_type = "gp2"
    tags        = local.tags
  }
  tags = merge({ Name = "${var.name}-bastion" }, local.tags)
}

resource "aws_eip" "bastion" {
  domain = "vpc"
  tags   = merge({ Name = "${var.name}-bastion" }, local.tags)
}

resource "aws_eip_association" "bastion" {
  instance_id   = aws_instance.bastion.id
  allocation_id = aws_eip.bastion.id
  depends_on    = [module.vpc]
}

resource "aws_instance" "app" {
  count                       = 2
  ami                         = nonsensitive(data.aws_ssm_parameter.amazon.value)
  instance_type               = data.aws_ec2_instance_type.app.instance_type
  subnet_id                   = module.vpc.private_subnets[count.index]
  private_ip                  = cidrhost(cidrsubnet(var.cidr, 8, 10 + count.index), 10)
  vpc_security_group_ids      = [module.app.id]
  monitoring                  = true
  associate_public_ip_address = false
  disable_api_termination     = false
  user_data_replace_on_change = true
  user_data                   = "#!/bin/sh\necho ${var.name}\n"
  root_block_device {
    volume_size           = 12
    volume_type           = "gp3"
    encrypted             = true
    delete_on_termination = true
    throughput            = 125
    iops                  = 3000
  }
  ebs_block_device {
    device_name           = "/dev/sdf"
    volume_size           = 5
    volume_type           = "gp3"
    delete_on_termination = true
    tags                  = local.tags
  }
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }
  credit_specification {
    cpu_credits = "unlimited"
  }
  volume_tags = null
  tags        = merge({ Name = "${var.name}-app" }, local.tags)
  timeouts {
    create = "5m"
  }
}

# The database has its interface made before it.
resource "aws_network_interface" "database" {
  subnet_id       = module.vpc.database_subnets[2]
  private_ips     = [cidrhost(cidrsubnet(var.database_cidr, 4, 2), 10)]
  security_groups = [module.database.id]
  description     = "${var.name} database"
  tags            = merge({ Name = "${var.name}-database" }, local.tags)
}

resource "aws_instance" "database" {
  ami           = data.aws_ami.amazon.id
  instance_type = "t3.micro"
  network_interface {
    network_interface_id = aws_network_interface.database.id
    device_index         = 0
  }
  volume_tags = local.tags
  tags        = merge({ Name = "${var.name}-database" }, local.tags)
}

data "aws_instances" "mine" {
  filter {
    name   = "tag:Project"
    values = [var.name]
  }
  depends_on = [aws_instance.web, aws_instance.bastion, aws_instance.app, aws_instance.database]
}

data "aws_subnets" "database" {
  filter {
    name   = "vpc-id"
    values = [module.vpc.vpc_id]
  }
  tags       = { Tier = "database" }
  depends_on = [module.vpc]
}

output "instances" {
  value = {
    web      = { id = aws_instance.web.id, private = aws_instance.web.private_ip, public = aws_instance.web.public_ip }
    bastion  = { id = aws_instance.bastion.id, private = aws_instance.bastion.private_ip, public = aws_eip_association.bastion.public_ip }
    app      = { id = aws_instance.app[0].id, private = aws_instance.app[0].private_ip, public = "" }
    app2     = { id = aws_instance.app[1].id, private = aws_instance.app[1].private_ip, public = "" }
    database = { id = aws_instance.database.id, private = aws_instance.database.private_ip, public = "" }
  }
}
output "zones" { value = local.azs }
output "vpc" { value = module.vpc.vpc_id }
output "found" { value = [length(data.aws_instances.mine.ids), length(data.aws_subnets.database.ids)] }
output "web_group" { value = module.web.id }
