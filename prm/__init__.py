"""Process reward models: step segmentation, labels, annotation, scoring and guided search."""
