"""Makes AWS equal to a plan, through CloudFormation's change sets."""
