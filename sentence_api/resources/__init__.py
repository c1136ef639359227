"""Resources of the machine, and the formula that turns them into a plan."""
