"""Renders a plan as the templates of AWS: CloudFormation and SAM."""
