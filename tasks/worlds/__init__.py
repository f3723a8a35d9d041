"""Generated worlds whose gold utility is known exactly."""
