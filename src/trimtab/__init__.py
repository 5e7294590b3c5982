"""Make a trained network small and fast for the machine it will run on."""
