"""How a suite is driven: its stages as DVC knows them, the files `run` prepares, and what a failure leaves behind."""
