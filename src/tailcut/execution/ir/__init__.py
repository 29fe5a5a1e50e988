"""The intermediate form that all engines share: expressions, programs, sizes and costs."""
