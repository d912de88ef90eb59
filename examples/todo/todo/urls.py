from django.urls import path

from todo import views

urlpatterns = [
    path("", views.page),
    path("todos", views.todos),
    path("todos/<str:doc_id>", views.todo),
    path("todos/<str:doc_id>/history", views.history),
    path("todos/<str:doc_id>/restore", views.restore),
]
