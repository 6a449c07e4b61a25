"""Draws a plan in the languages of tools: CloudFormation, SAM, Terraform."""
