"""Whole models: one file a family, each with a mapping `BACKBONES` from id to `BackboneSpec`."""
