"""What the machine has, and the formula that turns it into a plan."""
