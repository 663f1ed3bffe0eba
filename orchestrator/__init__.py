"""Plans a scaling study, prices it, and runs it here or on Kubernetes. Nothing in this package imports torch."""
