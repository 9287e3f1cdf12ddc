"""Conversion of other layers to SyncBatchNorm and back."""
