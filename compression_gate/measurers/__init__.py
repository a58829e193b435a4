"""What is measured: quality, size and cost, latency, load time, memory, and the machine it was measured on."""
