"""What is asked of the policy."""
