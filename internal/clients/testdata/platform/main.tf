# The platform in three regions.

terraform {
  required_providers {
    aws = { source = "hashicorp/aws" }
  }
}

variable "public_key" { type = string }
variable "web_port" {
  type    = string
  default = "http-8080-tcp"
}
variable "visitors" {
  type    = list(string)
  default = ["203.0.113.0/24", "192.0.2.0/24"]
}
variable "partners" {
  type    = number
  default = 25
}
variable "app_from_web" {
  type    = bool
  default = true
}
variable "without_partner" {
  type    = number
  default = -1
}
variable "acl_rule" {
  type    = number
  default = 100
}
variable "template_disk" {
  type    = number
  default = 12
}

provider "aws" {
  region = "us-east-1"
  default_tags {
    tags = { Environment = "test" }
  }
}

provider "aws" {
  alias  = "ireland"
  region = "eu-west-1"
}

provider "aws" {
  alias  = "sydney"
  region = "ap-southeast-2"
}

module "virginia" {
  source          = "./modules/region"
  name            = "virginia"
  cidr            = "10.10.0.0/16"
  database_cidr   = "10.110.0.0/20"
  public_key      = var.public_key
  web_port        = var.web_port
  visitors        = var.visitors
  partners        = var.partners
  app_from_web    = var.app_from_web
  without_partner = var.without_partner
  acl_rule        = var.acl_rule
  template_disk   = var.template_disk
}

module "ireland" {
  source          = "./modules/region"
  providers       = { aws = aws.ireland }
  name            = "ireland"
  cidr            = "10.20.0.0/16"
  database_cidr   = "10.120.0.0/20"
  public_key      = var.public_key
  web_port        = var.web_port
  visitors        = var.visitors
  partners        = var.partners
  app_from_web    = var.app_from_web
  without_partner = var.without_partner
  acl_rule        = var.acl_rule
  template_disk   = var.template_disk
}

# Sydney has the ranges of Virginia: regions do not meet by private addresses.
module "sydney" {
  source          = "./modules/region"
  providers       = { aws = aws.sydney }
  name            = "sydney"
  cidr            = "10.10.0.0/16"
  database_cidr   = "10.110.0.0/20"
  public_key      = var.public_key
  web_port        = var.web_port
  visitors        = var.visitors
  partners        = var.partners
  app_from_web    = var.app_from_web
  without_partner = var.without_partner
  acl_rule        = var.acl_rule
  template_disk   = var.template_disk
}

# Ireland's web servers admit Virginia's bastion by its public address.
resource "aws_vpc_security_group_ingress_rule" "virginia" {
  provider          = aws.ireland
  security_group_id = module.ireland.web_group
  description       = "bastion of Virginia"
  ip_protocol       = "tcp"
  from_port         = 7100
  to_port           = 7100
  cidr_ipv4         = "${module.virginia.instances.bastion.public}/32"
}

output "regions" {
  value = {
    virginia = { instances = module.virginia.instances, zones = module.virginia.zones, vpc = module.virginia.vpc, found = module.virginia.found }
    ireland  = { instances = module.ireland.instances, zones = module.ireland.zones, vpc = module.ireland.vpc, found = module.ireland.found }
    sydney   = { instances = module.sydney.instances, zones = module.sydney.zones, vpc = module.sydney.vpc, found = module.sydney.found }
  }
}
