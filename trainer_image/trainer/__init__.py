"""Runs one task of a scaling study on this machine or in a pod."""
