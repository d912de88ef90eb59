"""The pages by their addresses."""

from __future__ import annotations

from django.urls import path

from lakehouse.dashboard import letters, overview, sql, subscriptions, tail

app_name = "dashboard"
urlpatterns = [
    path("", overview.overview, name="overview"),
    path("sql/", sql.editor, name="sql"),
    path("sql/run/", sql.run, name="sql-run"),
    path("sql/columns/", sql.columns, name="sql-columns"),
    path("tail/", tail.tail, name="tail"),
    path("tail/rows/", tail.rows, name="tail-rows"),
    path("subscriptions/", subscriptions.listing, name="subscriptions"),
    path("subscriptions/<int:pk>/", subscriptions.log, name="log"),
    path("subscriptions/<int:pk>/pause/", subscriptions.pause, name="pause"),
    path("subscriptions/<int:pk>/resume/", subscriptions.resume, name="resume"),
    path("letters/", letters.listing, name="letters"),
    path("letters/<int:pk>/retry/", letters.retry, name="retry"),
    path("letters/entries/<int:pk>/replay/", letters.replay, name="replay"),
]
