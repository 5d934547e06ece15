"""What hot paths cost, beside what a user would write by hand."""
