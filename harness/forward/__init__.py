"""Forward passes: log-probabilities and hidden states of batches, packed where the rows differ in length."""
