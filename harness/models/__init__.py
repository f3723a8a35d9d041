"""Loading, placing and adapting models: policies, adapters, precision, memory plans."""
