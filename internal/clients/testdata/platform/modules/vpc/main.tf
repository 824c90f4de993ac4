# A network in several zones: public, private and database subnets, their routes, and what a VPC has by default.

terraform {
  required_providers {
    aws = { source = "hashicorp/aws" }
  }
}

variable "name" { type = string }
variable "cidr" { type = string }
variable "secondary_cidrs" {
  type    = list(string)
  default = []
}
variable "azs" { type = list(string) }
variable "public_subnets" {
  type    = list(string)
  default = []
}
variable "private_subnets" {
  type    = list(string)
  default = []
}
variable "database_subnets" {
  type    = list(string)
  default = []
}
variable "domain_name" {
  type    = string
  default = ""
}
variable "default_acl_rules" {
  type = list(object({ number = number, action = string, protocol = string, from = number, to = number, cidr = optional(string), ipv6 = optional(string) }))
  default = [
    { number = 100, action = "allow", protocol = "-1", from = 0, to = 0, cidr = "0.0.0.0/0" },
    { number = 101, action = "allow", protocol = "-1", from = 0, to = 0, ipv6 = "::/0" },
  ]
}
variable "tags" {
  type    = map(string)
  default = {}
}

locals {
  # The subnets need the further ranges first, and go before them.
  vpc_id = try(aws_vpc_ipv4_cidr_block_association.this[0].vpc_id, aws_vpc.this.id)
}

resource "aws_vpc" "this" {
  cidr_block           = var.cidr
  instance_tenancy     = "default"
  enable_dns_support   = true
  enable_dns_hostnames = true
  tags                 = merge({ Name = var.name }, var.tags)
}

resource "aws_vpc_ipv4_cidr_block_association" "this" {
  count      = length(var.secondary_cidrs)
  vpc_id     = aws_vpc.this.id
  cidr_block = var.secondary_cidrs[count.index]
}

resource "aws_vpc_dhcp_options" "this" {
  count               = var.domain_name == "" ? 0 : 1
  domain_name         = var.domain_name
  domain_name_servers = ["AmazonProvidedDNS"]
  ntp_servers         = ["169.254.169.123"]
  tags                = merge({ Name = var.name }, var.tags)
}

resource "aws_vpc_dhcp_options_association" "this" {
  count           = var.domain_name == "" ? 0 : 1
  vpc_id          = aws_vpc.this.id
  dhcp_options_id = aws_vpc_dhcp_options.this[0].id
}

# What the VPC has by default: a group without rules, an ACL with the rules that are named here, a table without routes.

resource "aws_default_security_group" "this" {
  vpc_id = aws_vpc.this.id
  tags   = merge({ Name = "${var.name}-default" }, var.tags)
}

resource "aws_default_network_acl" "this" {
  default_network_acl_id = aws_vpc.this.default_network_acl_id
  subnet_ids             = null
  dynamic "ingress" {
    for_each = var.default_acl_rules
    content {
      rule_no         = ingress.value.number
      action          = ingress.value.action
      protocol        = ingress.value.protocol
      from_port       = ingress.value.from
      to_port         = ingress.value.to
      cidr_block      = ingress.value.cidr
      ipv6_cidr_block = ingress.value.ipv6
    }
  }
  egress {
    rule_no    = 100
    action     = "allow"
    protocol   = "-1"
    from_port  = 0
    to_port    = 0
    cidr_block = "0.0.0.0/0"
  }
  egress {
    rule_no         = 101
    action          = "allow"
    protocol        = "-1"
    from_port       = 0
    to_port         = 0
    ipv6_cidr_block = "::/0"
  }
  tags = merge({ Name = "${var.name}-default" }, var.tags)
  lifecycle {
    ignore_changes = [subnet_ids]
  }
}

resource "aws_default_route_table" "this" {
  default_route_table_id = aws_vpc.this.default_route_table_id
  route                  = []
  timeouts {
    create = "5m"
    update = "5m"
  }
  tags = merge({ Name = "${var.name}-default" }, var.tags)
}

resource "aws_internet_gateway" "this" {
  count  = length(var.public_subnets) > 0 ? 1 : 0
  vpc_id = local.vpc_id
  tags   = merge({ Name = var.name }, var.tags)
}

# Public subnets share one table.

resource "aws_subnet" "public" {
  count                                       = length(var.public_subnets)
  vpc_id                                      = local.vpc_id
  cidr_block                                  = var.public_subnets[count.index]
  availability_zone                           = var.azs[count.index % length(var.azs)]
  map_public_ip_on_launch                     = true
  private_dns_hostname_type_on_launch         = "ip-name"
  enable_resource_name_dns_a_record_on_launch = false
  tags                                        = merge({ Name = "${var.name}-public-${var.azs[count.index % length(var.azs)]}", Tier = "public" }, var.tags)
}

resource "aws_route_table" "public" {
  count  = length(var.public_subnets) > 0 ? 1 : 0
  vpc_id = local.vpc_id
  tags   = merge({ Name = "${var.name}-public" }, var.tags)
}

resource "aws_route" "internet" {
  count                  = length(var.public_subnets) > 0 ? 1 : 0
  route_table_id         = aws_route_table.public[0].id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.this[0].id
  timeouts {
    create = "5m"
  }
}

resource "aws_route_table_association" "public" {
  count          = length(var.public_subnets)
  subnet_id      = aws_subnet.public[count.index].id
  route_table_id = aws_route_table.public[0].id
}

# Each private subnet has a table of its own.

resource "aws_subnet" "private" {
  count                = length(var.private_subnets)
  vpc_id               = local.vpc_id
  cidr_block           = var.private_subnets[count.index]
  availability_zone    = length(regexall("^[a-z]{2}-", var.azs[count.index % length(var.azs)])) > 0 ? var.azs[count.index % length(var.azs)] : null
  availability_zone_id = length(regexall("^[a-z]{2}-", var.azs[count.index % length(var.azs)])) == 0 ? var.azs[count.index % length(var.azs)] : null
  tags                 = merge({ Name = "${var.name}-private-${count.index}", Tier = "private" }, var.tags)
}

resource "aws_route_table" "private" {
  count  = length(var.private_subnets)
  vpc_id = local.vpc_id
  tags   = merge({ Name = "${var.name}-private-${count.index}" }, var.tags)
}

resource "aws_route_table_association" "private" {
  count          = length(var.private_subnets)
  subnet_id      = aws_subnet.private[count.index].id
  route_table_id = aws_route_table.private[count.index].id
}

# Database subnets share a table, and have an ACL of their own only by the VPC's default.

resource "aws_subnet" "database" {
  for_each          = { for n, cidr in var.database_subnets : cidr => var.azs[n % length(var.azs)] }
  vpc_id            = local.vpc_id
  cidr_block        = each.key
  availability_zone = each.value
  tags              = merge({ Name = "${var.name}-database-${each.value}", Tier = "database" }, var.tags)
}

resource "aws_route_table" "database" {
  count  = length(var.database_subnets) > 0 ? 1 : 0
  vpc_id = local.vpc_id
  tags   = merge({ Name = "${var.name}-database" }, var.tags)
}

resource "aws_route_table_association" "database" {
  for_each       = aws_subnet.database
  subnet_id      = each.value.id
  route_table_id = aws_route_table.database[0].id
}

output "vpc_id" { value = aws_vpc.this.id }
output "vpc_arn" { value = aws_vpc.this.arn }
output "public_subnets" { value = aws_subnet.public[*].id }
output "private_subnets" { value = aws_subnet.private[*].id }
output "database_subnets" { value = [for cidr in var.database_subnets : aws_subnet.database[cidr].id] }
output "ready" { value = [aws_route_table_association.public[*].id, aws_route.internet[*].id] }
