"""The providers' real SDKs, wrapped, against a provider on this machine."""
