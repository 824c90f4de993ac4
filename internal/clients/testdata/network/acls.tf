# Dedicated ACLs: one for each tier. They are stateless, so each has entries for answers to ephemeral ports.

locals {
  acl_rules = {
    public = {
      subnets = aws_subnet.public[*].id
      ingress = [
        { number = 90, action = "deny", protocol = "tcp", from = 23, to = 23, cidr = local.anyone },
        { number = 100, action = "allow", protocol = "tcp", from = 80, to = 80, cidr = local.anyone },
        { number = 110, action = "allow", protocol = "tcp", from = 1024, to = 65535, cidr = local.anyone },
        { number = 120, action = "allow", protocol = "udp", from = 1024, to = 65535, cidr = local.anyone },
        { number = 130, action = "allow", protocol = "icmp", from = -1, to = -1, cidr = local.anyone },
        { number = 140, action = "allow", protocol = "-1", from = 0, to = 0, cidr = local.vpc_cidr },
      ]
      egress = [{ number = 100, action = "allow", protocol = "-1", from = 0, to = 0, cidr = local.anyone }]
    }
    private = {
      subnets = aws_subnet.private[*].id
      ingress = [
        { number = 100, action = "deny", protocol = "tcp", from = 8080, to = 8080, cidr = local.vpc_cidr },
        { number = 110, action = "allow", protocol = "tcp", from = 1024, to = 65535, cidr = local.anyone },
        { number = 120, action = "allow", protocol = "udp", from = 1024, to = 65535, cidr = local.anyone },
        { number = 130, action = "allow", protocol = "icmp", from = 0, to = -1, cidr = local.anyone },
      ]
      egress = [{ number = 100, action = "allow", protocol = "-1", from = 0, to = 0, cidr = local.anyone }]
    }
    database = {
      subnets = aws_subnet.database[*].id
      ingress = concat(
        [for n, cidr in local.private : { number = 100 + n, action = "allow", protocol = "tcp", from = var.database_port, to = var.database_port, cidr = cidr }],
        [{ number = 200, action = "allow", protocol = "tcp", from = 5500, to = 5500, cidr = local.vpc_cidr }],
      )
      egress = [{ number = 100, action = "allow", protocol = "tcp", from = 1024, to = 65535, cidr = local.vpc_cidr }]
    }
  }
  acl_entries = merge([for tier, acl in local.acl_rules : merge(
    { for e in acl.ingress : "${tier}-in-${e.number}" => merge(e, { tier = tier, egress = false }) },
    { for e in acl.egress : "${tier}-out-${e.number}" => merge(e, { tier = tier, egress = true }) },
  )]...)
}

resource "aws_network_acl" "tier" {
  for_each   = local.acl_rules
  vpc_id     = aws_vpc.this.id
  subnet_ids = each.value.subnets
  tags       = { Name = "network-${each.key}" }
}

resource "aws_network_acl_rule" "this" {
  for_each       = local.acl_entries
  network_acl_id = aws_network_acl.tier[each.value.tier].id
  egress         = each.value.egress
  rule_number    = each.value.number
  rule_action    = each.value.action
  protocol       = each.value.protocol
  from_port      = each.value.protocol == "icmp" || each.value.protocol == "-1" ? null : each.value.from
  to_port        = each.value.protocol == "icmp" || each.value.protocol == "-1" ? null : each.value.to
  icmp_type      = each.value.protocol == "icmp" ? each.value.from : null
  icmp_code      = each.value.protocol == "icmp" ? each.value.to : null
  cidr_block     = each.value.cidr
}
