# A group with a name by prefix and its rules by for_each, of the old resource or of the new ones.

terraform {
  required_providers {
    aws = { source = "hashicorp/aws" }
  }
}

variable "name" { type = string }
variable "description" {
  type    = string
  default = "Security group managed by Terraform"
}
variable "vpc_id" { type = string }
variable "tags" {
  type    = map(string)
  default = {}
}

# Rules of aws_vpc_security_group_ingress_rule and _egress_rule.
variable "ingress" {
  type    = map(object({ protocol = string, from = optional(number), to = optional(number), ipv4 = optional(string), ipv6 = optional(string), group = optional(string), self = optional(bool, false), description = optional(string) }))
  default = {}
}
variable "egress" {
  type    = map(object({ protocol = string, from = optional(number), to = optional(number), ipv4 = optional(string), ipv6 = optional(string), group = optional(string), self = optional(bool, false), description = optional(string) }))
  default = { all = { protocol = "-1", ipv4 = "0.0.0.0/0" }, all6 = { protocol = "-1", ipv6 = "::/0" } }
}

# Rules of aws_security_group_rule, which has lists of ranges. With group, it has a group instead.
variable "named_rules" {
  type = map(tuple([number, number, string, string]))
  default = {
    ssh-tcp        = [22, 22, "tcp", "SSH"]
    http-8080-tcp  = [8080, 8080, "tcp", "HTTP"]
    https-8443-tcp = [8443, 8443, "tcp", "HTTPS"]
    app-8000-tcp   = [8000, 8000, "tcp", "application"]
    all-all        = [-1, -1, "-1", "All protocols"]
  }
}
variable "ingress_rules" {
  type    = set(string)
  default = []
}
variable "ingress_cidrs" {
  type    = list(string)
  default = []
}
variable "ingress_ipv6_cidrs" {
  type    = list(string)
  default = []
}
variable "ingress_from_groups" {
  type    = map(object({ rule = string, group = string }))
  default = {}
}
variable "ingress_from_self" {
  type    = set(string)
  default = []
}

resource "aws_security_group" "this" {
  name_prefix            = "${var.name}-"
  description            = var.description
  vpc_id                 = var.vpc_id
  revoke_rules_on_delete = true
  tags                   = merge({ Name = var.name }, var.tags)
  lifecycle {
    create_before_destroy = true
  }
  timeouts {
    create = "10m"
    delete = "15m"
  }
}

resource "aws_vpc_security_group_ingress_rule" "this" {
  for_each                     = var.ingress
  security_group_id            = aws_security_group.this.id
  ip_protocol                  = each.value.protocol
  from_port                    = each.value.from
  to_port                      = each.value.to
  cidr_ipv4                    = each.value.ipv4
  cidr_ipv6                    = each.value.ipv6
  referenced_security_group_id = each.value.self ? aws_security_group.this.id : each.value.group
  description                  = coalesce(each.value.description, each.key)
  tags                         = merge({ Name = each.key }, var.tags)
}

resource "aws_vpc_security_group_egress_rule" "this" {
  for_each                     = var.egress
  security_group_id            = aws_security_group.this.id
  ip_protocol                  = each.value.protocol
  from_port                    = each.value.from
  to_port                      = each.value.to
  cidr_ipv4                    = each.value.ipv4
  cidr_ipv6                    = each.value.ipv6
  referenced_security_group_id = each.value.self ? aws_security_group.this.id : each.value.group
  description                  = coalesce(each.value.description, each.key)
}

resource "aws_security_group_rule" "cidrs" {
  for_each          = length(var.ingress_cidrs) + length(var.ingress_ipv6_cidrs) > 0 ? var.ingress_rules : []
  security_group_id = aws_security_group.this.id
  type              = "ingress"
  cidr_blocks       = var.ingress_cidrs
  ipv6_cidr_blocks  = var.ingress_ipv6_cidrs
  prefix_list_ids   = []
  from_port         = var.named_rules[each.key][0]
  to_port           = var.named_rules[each.key][1]
  protocol          = var.named_rules[each.key][2]
  description       = var.named_rules[each.key][3]
}

resource "aws_security_group_rule" "groups" {
  for_each                 = var.ingress_from_groups
  security_group_id        = aws_security_group.this.id
  type                     = "ingress"
  source_security_group_id = each.value.group
  from_port                = var.named_rules[each.value.rule][0]
  to_port                  = var.named_rules[each.value.rule][1]
  protocol                 = var.named_rules[each.value.rule][2]
  description              = var.named_rules[each.value.rule][3]
}

resource "aws_security_group_rule" "self" {
  for_each          = var.ingress_from_self
  security_group_id = aws_security_group.this.id
  type              = "ingress"
  self              = true
  from_port         = var.named_rules[each.key][0]
  to_port           = var.named_rules[each.key][1]
  protocol          = var.named_rules[each.key][2]
  description       = var.named_rules[each.key][3]
}

output "id" { value = aws_security_group.this.id }
output "name" { value = aws_security_group.this.name }
