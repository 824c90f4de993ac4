# A network of three tiers in three zones, in the style of the public VPC module: what the VPC has by default is
# adopted, each tier has an ACL of its own, the private tier reaches the outside by NAT gateways, and a VPC of
# another account is a peer. Parts can be left out.

terraform {
  required_providers {
    aws = { source = "hashicorp/aws" }
  }
}

variable "public_key" { type = string }
variable "partner_access_key" { type = string }
variable "partner_secret_key" { type = string }
variable "nat_gateways" {
  type    = number # none, one for all zones, or one for each
  default = 1
}
variable "peering" {
  type    = bool
  default = true
}
variable "visitors" {
  type    = list(string)
  default = ["203.0.113.0/24"]
}
variable "partners" {
  type    = list(string)
  default = ["10.80.0.0/16"]
}
variable "database_port" {
  type    = number # that the ACL of the database tier lets in
  default = 5432
}
variable "middlebox" {
  type    = bool
  default = false
}

provider "aws" {
  region = "us-east-1"
}

provider "aws" {
  alias      = "partner"
  region     = "us-east-1"
  access_key = var.partner_access_key
  secret_key = var.partner_secret_key
}

data "aws_caller_identity" "partner" {
  provider = aws.partner
}

data "aws_availability_zones" "available" {
  state = "available"
}

locals {
  azs      = slice(data.aws_availability_zones.available.names, 0, 3)
  vpc_cidr = "10.70.0.0/16"
  public   = [for n in range(3) : cidrsubnet(local.vpc_cidr, 8, n + 1)]
  private  = [for n in range(3) : cidrsubnet(local.vpc_cidr, 8, n + 11)]
  database = [for n in range(3) : cidrsubnet(local.vpc_cidr, 8, n + 21)]
  anyone   = "0.0.0.0/0"
}

resource "aws_vpc" "this" {
  cidr_block           = local.vpc_cidr
  enable_dns_support   = true
  enable_dns_hostnames = true
  tags                 = { Name = "network" }
}

# What the VPC has by default. The group admits nothing, the ACL denies nothing, the table has no routes.

resource "aws_default_security_group" "this" {
  vpc_id = aws_vpc.this.id
  tags   = { Name = "network-default" }
}

resource "aws_default_network_acl" "this" {
  default_network_acl_id = aws_vpc.this.default_network_acl_id
  ingress {
    rule_no    = 100
    action     = "allow"
    protocol   = "-1"
    from_port  = 0
    to_port    = 0
    cidr_block = local.anyone
  }
  ingress {
    rule_no         = 101
    action          = "allow"
    protocol        = "-1"
    from_port       = 0
    to_port         = 0
    ipv6_cidr_block = "::/0"
  }
  egress {
    rule_no    = 100
    action     = "allow"
    protocol   = "-1"
    from_port  = 0
    to_port    = 0
    cidr_block = local.anyone
  }
  egress {
    rule_no         = 101
    action          = "allow"
    protocol        = "-1"
    from_port       = 0
    to_port         = 0
    ipv6_cidr_block = "::/0"
  }
  tags = { Name = "network-default" }
  lifecycle {
    ignore_changes = [subnet_ids]
  }
}

resource "aws_default_route_table" "this" {
  default_route_table_id = aws_vpc.this.default_route_table_id
  route                  = []
  tags                   = { Name = "network-default" }
}

# Subnets.

resource "aws_subnet" "public" {
  count                   = 3
  vpc_id                  = aws_vpc.this.id
  availability_zone       = local.azs[count.index]
  cidr_block              = local.public[count.index]
  map_public_ip_on_launch = true
  tags                    = { Name = "network-public-${local.azs[count.index]}" }
}

resource "aws_subnet" "private" {
  count             = 3
  vpc_id            = aws_vpc.this.id
  availability_zone = local.azs[count.index]
  cidr_block        = local.private[count.index]
  tags              = { Name = "network-private-${local.azs[count.index]}" }
}

resource "aws_subnet" "database" {
  count             = 3
  vpc_id            = aws_vpc.this.id
  availability_zone = local.azs[count.index]
  cidr_block        = local.database[count.index]
  tags              = { Name = "network-database-${local.azs[count.index]}" }
}

# Routes: the public tier by the Internet gateway, each private subnet by the NAT gateway of its zone or by the
# only one, the database tier nowhere.

resource "aws_internet_gateway" "this" {
  vpc_id = aws_vpc.this.id
  tags   = { Name = "network" }
}

resource "aws_route_table" "public" {
  vpc_id = aws_vpc.this.id
  tags   = { Name = "network-public" }
}

resource "aws_route" "public" {
  route_table_id         = aws_route_table.public.id
  destination_cidr_block = local.anyone
  gateway_id             = aws_internet_gateway.this.id
  timeouts {
    create = "5m"
  }
}

resource "aws_route_table_association" "public" {
  count          = 3
  subnet_id      = aws_subnet.public[count.index].id
  route_table_id = aws_route_table.public.id
}

resource "aws_eip" "nat" {
  count      = var.nat_gateways
  domain     = "vpc"
  tags       = { Name = "network-${local.azs[count.index]}" }
  depends_on = [aws_internet_gateway.this]
}

resource "aws_nat_gateway" "this" {
  count         = var.nat_gateways
  allocation_id = aws_eip.nat[count.index].id
  subnet_id     = aws_subnet.public[count.index].id
  tags          = { Name = "network-${local.azs[count.index]}" }
  depends_on    = [aws_internet_gateway.this]
}

resource "aws_route_table" "private" {
  count  = 3
  vpc_id = aws_vpc.this.id
  tags   = { Name = "network-private-${local.azs[count.index]}" }
}

resource "aws_route" "nat" {
  count                  = var.nat_gateways > 0 ? 3 : 0
  route_table_id         = aws_route_table.private[count.index].id
  destination_cidr_block = local.anyone
  nat_gateway_id         = aws_nat_gateway.this[count.index % var.nat_gateways].id
  timeouts {
    create = "5m"
  }
}

resource "aws_route_table_association" "private" {
  count          = 3
  subnet_id      = aws_subnet.private[count.index].id
  route_table_id = aws_route_table.private[count.index].id
}

resource "aws_route_table" "database" {
  vpc_id = aws_vpc.this.id
  tags   = { Name = "network-database" }
}

resource "aws_route_table_association" "database" {
  count          = 3
  subnet_id      = aws_subnet.database[count.index].id
  route_table_id = aws_route_table.database.id
}

output "instances" {
  value = concat([for i in [aws_instance.web, aws_instance.app, aws_instance.database, aws_instance.box] :
    { ID = i.id, Private = i.private_ip, Public = i.public_ip }],
  [for i in aws_instance.partner : { ID = i.id, Private = i.private_ip, Public = i.public_ip }])
}

output "gateways" {
  value = aws_eip.nat[*].public_ip
}
