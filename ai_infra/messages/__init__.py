"""Messages: envelopes with a known sender, inboxes, verdicts, answers."""
