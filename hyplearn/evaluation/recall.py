"""Retrieval measures of exact nearest neighbours: Recall@k, MAP@R and R-precision, per query and averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from hyplearn.evaluation.metric import Embeddings
from hyplearn.evaluation.neighbours import Index, Neighbours, Search

NEVER = torch.iinfo(torch.int64).max  # rank of a match that was not found


@dataclass(frozen=True, eq=False)
class QueryResults:
    """What each of Q queries found, all (Q,) on the CPU; parts of several processes or blocks can be concatenated.

    query: its position among all images. matches: R, the gallery images of its class, itself not counted.
    first: rank, from 1, of the nearest image of its class; NEVER if it lies beyond the depth that was searched.
    hits: images of its class among the R nearest. average_precision: AP@R (Musgrave et al., A Metric Learning Reality
    Check), the mean over i = 1..R of the precision of the i nearest where the i-th is a match and 0 where it is not.
    Both are NaN where the R nearest were not asked for.
    tied: an image of another class is exactly as far as the first match, so that the tie rule decided its rank.
    """

    query: Tensor
    matches: Tensor
    first: Tensor
    hits: Tensor
    average_precision: Tensor
    tied: Tensor

    def __len__(self) -> int:
        return len(self.query)

    @property
    def lone(self) -> Tensor:
        """Queries without any match in the gallery, which no measure counts. (Q,) bool."""
        return self.matches == 0

    def values(self, ks: Sequence[int]) -> dict[str, Tensor]:
        """Every measure of every query, (Q,) float64 in [0, 1], by name: recall@k, map@r, r_precision."""
        found = {f"recall@{k}": (self.first <= k).double() for k in ks}
        if self.average_precision.isnan().any():
            return found
        return {**found, "map@r": self.average_precision, "r_precision": self.hits / self.matches.clamp(min=1).double()}


def concatenate(parts: Sequence[QueryResults]) -> QueryResults:
    """The results of all parts, by the position of the query; that of the same query twice is an error."""
    if not parts:
        raise ValueError("parts=[] must hold at least one QueryResults")
    joined = {f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(QueryResults)}
    order = joined["query"].argsort()
    whole = QueryResults(**{name: values[order] for name, values in joined.items()})
    repeated = (whole.query.diff() == 0).nonzero()
    if len(repeated):
        raise ValueError(f"query {whole.query[repeated[0]].item()} is in more than one part: shares must not overlap")
    return whole


def evaluate(
    embeddings: Embeddings,
    labels: Tensor,
    *,
    query: Tensor | None = None,
    gallery: Tensor | None = None,
    ids: Tensor | None = None,
    ks: Sequence[int] = (1, 2, 4, 8),
    index: Index = "auto",
    share: slice | None = None,
    r_measures: bool = True,
) -> QueryResults:
    """Search the gallery for every query, the query itself left out, and measure what is found.

    labels: (N,) integers. query, gallery: (N,) bool, by default every image. ids: (N,) distinct integers, by default
    the positions: an image is no neighbour of itself, and of equally far images the one of the lower id comes first.
    ks: the ranks that recall is asked for. share: those queries, in the order of their positions, that this process
    searches: slice(rank, None, processes) gives each query to one of them. index: see `neighbours`. r_measures: MAP@R
    and R-precision as well as recall.

    Memory: blocks of queries, never the matrix of all pairs. The depth of the search is max(ks) or, for the r_measures,
    the R of the query if that is larger: with few large classes recall alone is many times faster.
    """
    labels, query, gallery, ids = _checked(len(embeddings), labels, query, gallery, ids)
    _check_ks(ks)
    asked = query.nonzero().squeeze(-1)[share or slice(None)]
    offered = gallery.nonzero().squeeze(-1)
    offered = offered[ids[offered].argsort()]
    matches = _matches(labels, gallery)[asked] - gallery[asked].long()
    order, depths = _by_depth(matches if r_measures else matches.clamp(max=1), min(max(ks), len(offered)))
    device = embeddings.device
    embeddings.hashes  # noqa: B018  # of all images, before parts of them are taken
    search = Search(
        embeddings.select(asked.to(device)),
        embeddings.select(offered.to(device)),
        query_ids=ids[asked],
        gallery_ids=ids[offered],
        index=index,
    )
    parts = [_measured(asked[:0], labels, offered, matches[:0], _nothing())]
    for rows, depth in zip(order, depths, strict=True):
        for block, found in search.blocks(depth, rows.to(device)):
            here = block.cpu()
            parts.append(_measured(asked[here], labels, offered, matches[here], found))
    results = concatenate(parts)
    return results if r_measures else _without_r(results)


def summarize(results: QueryResults, ks: Sequence[int]) -> dict[str, float]:
    """Means over the queries: recall@k for every k and, if asked for, map@r and r_precision as fractions; queries
    counted, lone_queries left out, and ties, the queries whose first match is tied with an image of another class."""
    _check_ks(ks)
    counted = ~results.lone
    queries = int(counted.sum())
    if not queries:
        raise ValueError(f"none of {len(results)} queries has an image of its class in the gallery: nothing to measure")
    means = {name: values[counted].mean().item() for name, values in results.values(ks).items()}
    return {
        **means,
        "queries": queries,
        "lone_queries": len(results) - queries,
        "ties": int(results.tied[counted].sum()),
    }


@dataclass(frozen=True, eq=False)
class Groups:
    """Means over the queries of each class, or each super-class. G groups, all (G,).

    group: its label. queries: how many were counted. lone_queries: left out. values: means by name of the measure, NaN
    where no query was counted.
    """

    group: Tensor
    queries: Tensor
    lone_queries: Tensor
    values: Mapping[str, Tensor]


def by_group(results: QueryResults, groups: Tensor, ks: Sequence[int]) -> Groups:
    """The table of a labelling of all images, groups (N,): the labels themselves, or super-class labels."""
    _check_ks(ks)
    present, place = groups.cpu()[results.query].unique(return_inverse=True)
    counted = (~results.lone).double()

    def total(values: Tensor) -> Tensor:
        return torch.bincount(place, weights=values * counted, minlength=len(present))

    queries = total(torch.ones_like(counted))
    values = {name: total(value) / queries for name, value in results.values(ks).items()}  # 0/0 is NaN
    lone = torch.bincount(place, minlength=len(present)) - queries.long()
    return Groups(present, queries.long(), lone, values)


def _measured(asked: Tensor, labels: Tensor, offered: Tensor, matches: Tensor, found: Neighbours) -> QueryResults:
    """The results of one block of queries from their neighbours, searched to the depth of the largest R at least."""
    indices, distances = found.indices.cpu(), found.distances.cpu()
    hit = (labels[offered][indices.clamp(min=0)] == labels[asked, None]) & (indices >= 0)
    rank = torch.arange(1, indices.shape[1] + 1)
    first = torch.where(hit, rank, NEVER).amin(-1)
    deepest = int(matches.max()) if len(matches) else 0
    within = hit[:, :deepest] & (rank[:deepest] <= matches[:, None])
    precision = within.cumsum(-1) / rank[:deepest].double()
    at_first = distances.gather(1, (first - 1).clamp(max=len(rank) - 1)[:, None])
    tied = ((distances == at_first) & ~hit & (indices >= 0)).any(-1) & (first < NEVER)
    return QueryResults(
        query=asked,
        matches=matches,
        first=first,
        hits=within.sum(-1),
        average_precision=(precision * within).sum(-1) / matches.clamp(min=1),
        tied=tied,
    )


def _without_r(results: QueryResults) -> QueryResults:
    """Return results as if the R nearest were unknown: they are, where R is more than the depth of the search."""
    unknown = torch.full((len(results),), torch.nan, dtype=torch.float64)
    return replace(results, hits=unknown, average_precision=unknown)


def _nothing() -> Neighbours:
    return Neighbours(torch.zeros(0, 1, dtype=torch.int64), torch.zeros(0, 1, dtype=torch.float64))


def _by_depth(matches: Tensor, least: int) -> tuple[list[Tensor], list[int]]:
    """Queries grouped by how deep they must be searched, so that one large class does not make all others as deep."""
    depth = matches.clamp(min=least)
    level = depth.double().log2().ceil().long()
    rows = [(level == value).nonzero().squeeze(-1) for value in level.unique()]
    return rows, [int(depth[part].max()) for part in rows]


def _matches(labels: Tensor, gallery: Tensor) -> Tensor:
    """Gallery images of each image's class, (N,)."""
    place = labels.unique(return_inverse=True)[1]
    return torch.bincount(place[gallery], minlength=int(place.max()) + 1)[place]


def _check_ks(ks: Sequence[int]) -> None:
    if not ks or min(ks) < 1:
        raise ValueError(f"ks={tuple(ks)} must be at least one rank, each >= 1, such as (1, 2, 4, 8)")


def _checked(
    count: int, labels: Tensor, query: Tensor | None, gallery: Tensor | None, ids: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """labels, query, gallery and ids on the CPU, with the defaults of `evaluate`."""
    everything = torch.ones(count, dtype=torch.bool)
    ids = torch.arange(count) if ids is None else ids.cpu()
    query, gallery = (everything if mask is None else mask.cpu() for mask in (query, gallery))
    for name, values in (("labels", labels), ("ids", ids)):
        if values.shape != (count,) or values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
            raise ValueError(
                f"{name} of shape {tuple(values.shape)} and {values.dtype} must be {count} integers, one per embedding"
            )
    for name, mask in (("query", query), ("gallery", gallery)):
        if mask.shape != (count,) or mask.dtype != torch.bool:
            raise ValueError(
                f"{name} of shape {tuple(mask.shape)} and {mask.dtype} must be {count} booleans, one per embedding"
            )
        if not mask.any():
            raise ValueError(f"{name} selects none of {count} images")
    _check_distinct(ids)
    return labels.cpu().long(), query, gallery, ids.long()


def _check_distinct(ids: Tensor) -> None:
    """R is counted by positions, a query is left out by its id: they agree if no two rows share one."""
    known, order = ids.sort(stable=True)
    again = (known.diff() == 0).nonzero()
    if len(again):
        at = int(again[0])
        raise ValueError(
            f"ids={known[at].item()} is that of rows {int(order[at])} and {int(order[at + 1])}, but every row needs "
            "its own: leave ids out where rows are different images, and give an image that is query and gallery in "
            "one row, marked as both"
        )
