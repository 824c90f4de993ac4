# The VPC of a partner, another account. The private tier and the partner reach each other.

locals {
  partners = var.peering ? 1 : 0
}

resource "aws_vpc" "partner" {
  provider   = aws.partner
  count      = local.partners
  cidr_block = "10.80.0.0/16"
  tags       = { Name = "partner" }
}

resource "aws_subnet" "partner" {
  provider          = aws.partner
  count             = local.partners
  vpc_id            = aws_vpc.partner[0].id
  availability_zone = local.azs[0]
  cidr_block        = "10.80.1.0/24"
}

resource "aws_vpc_peering_connection" "this" {
  count         = local.partners
  vpc_id        = aws_vpc.this.id
  peer_vpc_id   = aws_vpc.partner[0].id
  peer_owner_id = data.aws_caller_identity.partner.account_id
  auto_accept   = false
  tags          = { Side = "requester" }
}

resource "aws_vpc_peering_connection_accepter" "this" {
  provider                  = aws.partner
  count                     = local.partners
  vpc_peering_connection_id = aws_vpc_peering_connection.this[0].id
  auto_accept               = true
  tags                      = { Side = "accepter" }
}

resource "aws_vpc_peering_connection_options" "requester" {
  count                     = local.partners
  vpc_peering_connection_id = aws_vpc_peering_connection_accepter.this[0].id
  requester {
    allow_remote_vpc_dns_resolution = true
  }
}

resource "aws_vpc_peering_connection_options" "accepter" {
  provider                  = aws.partner
  count                     = local.partners
  vpc_peering_connection_id = aws_vpc_peering_connection_accepter.this[0].id
  accepter {
    allow_remote_vpc_dns_resolution = true
  }
}

# A prefix list leads to the peer, and admits it on a port. Another port is for a group of the peer.

resource "aws_ec2_managed_prefix_list" "partners" {
  name           = "partners"
  address_family = "IPv4"
  max_entries    = 3
}

resource "aws_ec2_managed_prefix_list_entry" "partners" {
  for_each       = toset(var.partners)
  prefix_list_id = aws_ec2_managed_prefix_list.partners.id
  cidr           = each.key
  description    = "a partner"
}

resource "aws_route" "partners" {
  count                      = local.partners * 3
  route_table_id             = aws_route_table.private[count.index].id
  destination_prefix_list_id = aws_ec2_managed_prefix_list.partners.id
  vpc_peering_connection_id  = aws_vpc_peering_connection_accepter.this[0].id
}

resource "aws_route" "back" {
  provider                  = aws.partner
  count                     = local.partners
  route_table_id            = aws_vpc.partner[0].main_route_table_id
  destination_cidr_block    = aws_vpc.this.cidr_block
  vpc_peering_connection_id = aws_vpc_peering_connection_accepter.this[0].id
}

resource "aws_vpc_security_group_ingress_rule" "partners" {
  security_group_id = aws_security_group.this["app"].id
  description       = "partners by their list"
  ip_protocol       = "tcp"
  from_port         = 8002
  to_port           = 8002
  prefix_list_id    = aws_ec2_managed_prefix_list.partners.id
}

resource "aws_vpc_security_group_ingress_rule" "partner_group" {
  count                        = local.partners
  security_group_id            = aws_security_group.this["app"].id
  description                  = "a group of the peer"
  ip_protocol                  = "tcp"
  from_port                    = 8001
  to_port                      = 8001
  referenced_security_group_id = "${data.aws_caller_identity.partner.account_id}/${aws_security_group.partner[0].id}"
  depends_on                   = [aws_vpc_peering_connection_accepter.this]
}

data "aws_caller_identity" "this" {}

resource "aws_security_group" "partner" {
  provider    = aws.partner
  count       = local.partners
  name        = "partner"
  description = "Servers of the partner"
  vpc_id      = aws_vpc.partner[0].id
}

resource "aws_vpc_security_group_egress_rule" "partner" {
  provider          = aws.partner
  count             = local.partners
  security_group_id = aws_security_group.partner[0].id
  ip_protocol       = "-1"
  cidr_ipv4         = local.anyone
}

resource "aws_vpc_security_group_ingress_rule" "partner" {
  provider                     = aws.partner
  count                        = local.partners
  security_group_id            = aws_security_group.partner[0].id
  description                  = "the application servers of the peer"
  ip_protocol                  = "tcp"
  from_port                    = 9000
  to_port                      = 9000
  referenced_security_group_id = "${data.aws_caller_identity.this.account_id}/${aws_security_group.this["app"].id}"
  depends_on                   = [aws_vpc_peering_connection_accepter.this]
}

resource "aws_instance" "partner" {
  provider               = aws.partner
  count                  = local.partners
  ami                    = data.aws_ami.amazon.id
  instance_type          = "t3.micro"
  subnet_id              = aws_subnet.partner[0].id
  vpc_security_group_ids = [aws_security_group.partner[0].id]
}
