"""Deployments to AWS: the plan, its templates, and the stack that CloudFormation makes."""
