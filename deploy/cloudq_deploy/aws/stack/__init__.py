"""Makes the stack of a plan on AWS, through CloudFormation's change sets."""
