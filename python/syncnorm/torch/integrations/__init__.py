"""How the tools that people train with use syncnorm's layers."""
