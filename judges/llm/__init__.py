"""The language-model judge: prompt, requests, cache, parsing and the verdict from both orders."""
