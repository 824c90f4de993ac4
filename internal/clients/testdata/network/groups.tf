# Groups, and an instance of each tier in another zone.

resource "aws_security_group" "this" {
  for_each    = toset(["web", "app", "database", "box"])
  name        = "network-${each.key}"
  description = "Tier ${each.key}"
  vpc_id      = aws_vpc.this.id
  tags        = { Name = "network-${each.key}" }
}

resource "aws_vpc_security_group_egress_rule" "all" {
  for_each          = aws_security_group.this
  security_group_id = each.value.id
  ip_protocol       = "-1"
  cidr_ipv4         = local.anyone
}

# The public ports are for a list of visitors.
resource "aws_ec2_managed_prefix_list" "visitors" {
  name           = "visitors"
  address_family = "IPv4"
  max_entries    = 5
  dynamic "entry" {
    for_each = var.visitors
    content {
      cidr        = entry.value
      description = "visitor ${entry.key}"
    }
  }
  tags = { Name = "visitors" }
}

resource "aws_vpc_security_group_ingress_rule" "visitors" {
  security_group_id = aws_security_group.this["web"].id
  description       = "visitors"
  ip_protocol       = "tcp"
  from_port         = 80
  to_port           = 80
  prefix_list_id    = aws_ec2_managed_prefix_list.visitors.id
}

resource "aws_vpc_security_group_ingress_rule" "telnet" {
  security_group_id = aws_security_group.this["web"].id
  description       = "admitted here, denied by the ACL"
  ip_protocol       = "tcp"
  from_port         = 23
  to_port           = 23
  prefix_list_id    = aws_ec2_managed_prefix_list.visitors.id
}

resource "aws_vpc_security_group_ingress_rule" "app" {
  for_each                     = toset(["8000", "8080"])
  security_group_id            = aws_security_group.this["app"].id
  ip_protocol                  = "tcp"
  from_port                    = each.key
  to_port                      = each.key
  referenced_security_group_id = aws_security_group.this["web"].id
}

resource "aws_vpc_security_group_ingress_rule" "database" {
  security_group_id            = aws_security_group.this["database"].id
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5433
  referenced_security_group_id = aws_security_group.this["app"].id
}

data "aws_ami" "amazon" {
  most_recent = true
  owners      = ["amazon"]
  filter {
    name   = "name"
    values = ["al2023-ami-2023*-x86_64"]
  }
}

resource "aws_instance" "web" {
  ami                    = data.aws_ami.amazon.id
  instance_type          = "t3.micro"
  subnet_id              = aws_subnet.public[0].id
  vpc_security_group_ids = [aws_security_group.this["web"].id]
  tags                   = { Name = "network-web" }
}

resource "aws_instance" "app" {
  ami                    = data.aws_ami.amazon.id
  instance_type          = "t3.micro"
  subnet_id              = aws_subnet.private[1].id
  vpc_security_group_ids = [aws_security_group.this["app"].id]
  tags                   = { Name = "network-app" }
}

resource "aws_instance" "database" {
  ami                    = data.aws_ami.amazon.id
  instance_type          = "t3.micro"
  subnet_id              = aws_subnet.database[2].id
  vpc_security_group_ids = [aws_security_group.this["database"].id]
  tags                   = { Name = "network-database" }
}

# A middlebox between the private and the database tier.
resource "aws_instance" "box" {
  ami                    = data.aws_ami.amazon.id
  instance_type          = "t3.micro"
  subnet_id              = aws_subnet.public[2].id
  vpc_security_group_ids = [aws_security_group.this["box"].id]
  source_dest_check      = false
  tags                   = { Name = "network-box" }
}

resource "aws_vpc_security_group_ingress_rule" "box" {
  security_group_id = aws_security_group.this["box"].id
  ip_protocol       = "-1"
  cidr_ipv4         = local.vpc_cidr
}

resource "aws_vpc_security_group_ingress_rule" "through_box" {
  security_group_id = aws_security_group.this["database"].id
  description       = "a middlebox is no member of the group app"
  ip_protocol       = "tcp"
  from_port         = 5500
  to_port           = 5500
  cidr_ipv4         = local.private[1]
}

resource "aws_route" "to_database" {
  count                  = var.middlebox ? 1 : 0
  route_table_id         = aws_route_table.private[1].id
  destination_cidr_block = local.database[2]
  network_interface_id   = aws_instance.box.primary_network_interface_id
}

resource "aws_route" "to_app" {
  count                  = var.middlebox ? 1 : 0
  route_table_id         = aws_route_table.database.id
  destination_cidr_block = local.private[1]
  network_interface_id   = aws_instance.box.primary_network_interface_id
}
