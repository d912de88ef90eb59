"""The part of a catalog we do not keep: views. Questions about one are answered as other catalogs without them do."""

from __future__ import annotations

from abc import ABC

from pyiceberg.catalog import MetastoreCatalog
from pyiceberg.typedef import Identifier
from pyiceberg.view import View

REFUSAL = "this catalog keeps no views"


class WithoutViews(MetastoreCatalog, ABC):
    """A metastore catalog of tables only."""

    def list_views(self, namespace: str | Identifier = ()) -> list[Identifier]:
        raise NotImplementedError(REFUSAL)

    def view_exists(self, identifier: str | Identifier) -> bool:
        raise NotImplementedError(REFUSAL)

    def load_view(self, identifier: str | Identifier) -> View:
        raise NotImplementedError(REFUSAL)

    def register_view(self, identifier: str | Identifier, metadata_location: str) -> View:
        raise NotImplementedError(REFUSAL)

    def drop_view(self, identifier: str | Identifier) -> None:
        raise NotImplementedError(REFUSAL)
