"""Compare torch.nn.SyncBatchNorm and syncnorm's layer on the CPU: operations, memory and time."""
