"""The language-model judge: client, cache, prompts, parsing, both orders."""
