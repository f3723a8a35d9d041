"""Text to token ids and back: prompt templates, chat templates, special tokens."""
