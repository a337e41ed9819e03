"""`Knowledge`: the process that owns the indexes. Documents go in, passages come out."""
