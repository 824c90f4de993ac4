# The guides' groups in Terraform: inline rules, separate rule resources of both kinds, and the
# network that they need.

terraform {
  required_providers {
    aws = { source = "hashicorp/aws" }
  }
}

variable "endpoint" {}
variable "public_key" {}
variable "web_port" { default = 80 }
variable "db_port" { default = 3306 }
variable "admin_port" { default = 7000 }

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

data "aws_caller_identity" "me" {}

data "aws_availability_zones" "all" {
  state = "available"
}

data "aws_vpc" "default" {
  default = true
}

resource "aws_vpc" "main" {
  cidr_block           = "10.30.0.0/16"
  enable_dns_hostnames = true
  tags                 = { Name = "main" }
}

resource "aws_subnet" "public" {
  vpc_id                  = aws_vpc.main.id
  cidr_block              = "10.30.1.0/24"
  availability_zone       = data.aws_availability_zones.all.names[0]
  map_public_ip_on_launch = true
}

resource "aws_internet_gateway" "main" {
  vpc_id = aws_vpc.main.id
}

resource "aws_route_table" "public" {
  vpc_id = aws_vpc.main.id
  route {
    cidr_block = "203.0.113.0/24"
    gateway_id = aws_internet_gateway.main.id
  }
}

resource "aws_route_table_association" "public" {
  subnet_id      = aws_subnet.public.id
  route_table_id = aws_route_table.public.id
}

resource "aws_route_table" "all" {
  vpc_id = aws_vpc.main.id
}

resource "aws_route" "all" {
  route_table_id         = aws_route_table.all.id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.main.id
}

resource "aws_security_group" "web" {
  name        = "web"
  description = "rules inside"
  vpc_id      = aws_vpc.main.id
  ingress {
    description = "the network of the laptop"
    protocol    = "tcp"
    from_port   = var.web_port
    to_port     = var.web_port
    cidr_blocks = ["203.0.113.0/24"]
  }
  ingress {
    protocol  = "icmp"
    from_port = -1
    to_port   = -1
    self      = true
  }
  egress {
    protocol    = "-1"
    from_port   = 0
    to_port     = 0
    cidr_blocks = ["0.0.0.0/0"]
  }
}

resource "aws_security_group" "database" {
  name        = "database"
  description = "rules that stand alone"
  vpc_id      = aws_vpc.main.id
}

resource "aws_vpc_security_group_ingress_rule" "database" {
  security_group_id            = aws_security_group.database.id
  description                  = "the web servers"
  ip_protocol                  = "tcp"
  from_port                    = var.db_port
  to_port                      = var.db_port
  referenced_security_group_id = aws_security_group.web.id
  tags                         = { Name = "database" }
}

resource "aws_vpc_security_group_egress_rule" "database" {
  security_group_id = aws_security_group.database.id
  ip_protocol       = "-1"
  cidr_ipv4         = "10.30.0.0/16"
}

resource "aws_security_group" "admin" {
  name   = "admin"
  vpc_id = aws_vpc.main.id
}

resource "aws_security_group_rule" "admin" {
  type              = "ingress"
  security_group_id = aws_security_group.admin.id
  protocol          = "tcp"
  from_port         = var.admin_port
  to_port           = var.admin_port
  cidr_blocks       = ["203.0.113.25/32", "198.51.100.0/24"]
}

resource "aws_default_security_group" "nobody" {
  vpc_id = aws_vpc.main.id
}

resource "aws_key_pair" "main" {
  key_name   = "terraform"
  public_key = var.public_key
}

data "aws_ami" "ubuntu" {
  most_recent = true
  owners      = ["099720109477"]
  filter {
    name   = "name"
    values = ["ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-amd64-server-20230516"]
  }
  filter {
    name   = "virtualization-type"
    values = ["hvm"]
  }
}

resource "aws_instance" "web" {
  ami                    = data.aws_ami.ubuntu.id
  instance_type          = "t3.micro"
  key_name               = aws_key_pair.main.key_name
  subnet_id              = aws_subnet.public.id
  vpc_security_group_ids = [aws_security_group.web.id]
  tags                   = { Name = "web" }
  root_block_device {
    volume_size = 20
    volume_type = "gp3"
    encrypted   = true
  }
  ebs_block_device {
    device_name = "/dev/sdf"
    volume_size = 100
    tags        = { Name = "data" }
  }
  depends_on             = [aws_route_table_association.public]
}

resource "aws_instance" "database" {
  ami                    = "ami-0123456789abcdef0"
  instance_type          = "t3.micro"
  subnet_id              = aws_subnet.public.id
  vpc_security_group_ids = [aws_security_group.database.id, aws_security_group.admin.id]
  tags                   = { Name = "database" }
  volume_tags            = { Name = "database" }
}

resource "aws_eip" "database" {
  domain   = "vpc"
  instance = aws_instance.database.id
}

output "instances" {
  value = [
    { id = aws_instance.web.id, private = aws_instance.web.private_ip, public = aws_instance.web.public_ip },
    { id = aws_instance.database.id, private = aws_instance.database.private_ip, public = aws_eip.database.public_ip },
  ]
}

output "account" {
  value = [data.aws_caller_identity.me.account_id, data.aws_vpc.default.cidr_block]
}
