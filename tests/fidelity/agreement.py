"""How two sets of vectors agree: the measures of the tables, each a closed formula in f64."""

import numpy


def unit(vectors):
    """Rows scaled to length 1."""
    vectors = numpy.asarray(vectors, numpy.float64)
    return vectors / numpy.linalg.norm(vectors, axis=1, keepdims=True)


def cosines(a, b):
    """The cosine of each row with its counterpart."""
    return (unit(a) * unit(b)).sum(1)


def similarities(vectors):
    """Cosines of all pairs of rows."""
    vectors = unit(vectors)
    return vectors @ vectors.T


def ranks(values):
    """Ranks from 0; equal values share the mean of theirs."""
    _, inverse, counts = numpy.unique(values, return_inverse=True, return_counts=True)
    ends = numpy.cumsum(counts)
    return (ends - (counts + 1) / 2)[inverse]


def spearman(a, b):
    """Rank correlation of two lists."""
    return float(numpy.corrcoef(ranks(a), ranks(b))[0, 1])


def nearest(vectors):
    """For each row the other one that is most similar."""
    table = similarities(vectors)
    numpy.fill_diagonal(table, -numpy.inf)
    return table.argmax(1)


def pairs(vectors):
    """Similarities of all pairs of different rows, once each."""
    table = similarities(vectors)
    return table[numpy.triu_indices(len(table), 1)]


def relative_error(a, b):
    """|a - b| / |b| in the Euclidean norm."""
    a, b = numpy.asarray(a, numpy.float64), numpy.asarray(b, numpy.float64)
    return float(numpy.linalg.norm(a - b) / numpy.linalg.norm(b))
