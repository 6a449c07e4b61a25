"""AWS: a plan, its drawings, and the stack that CloudFormation makes of it."""
