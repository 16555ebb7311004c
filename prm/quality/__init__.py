"""Quality of step labels: people's labels, agreement, probes against drift, near-duplicates, splits by problem."""
