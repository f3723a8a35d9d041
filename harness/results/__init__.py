"""From the files of finished cells to estimates, contrasts and verdicts on claims."""
