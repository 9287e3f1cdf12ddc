"""torch.nn.SyncBatchNorm and this library's layer in one run, on the CPU: what each call takes."""
