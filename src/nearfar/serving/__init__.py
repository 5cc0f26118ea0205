"""`nearfar serve`: a model behind HTTP.

JSON -> items.py -> Answerer (answerer.py, one process) -> vectors, hits, predictions -> JSON
        service.py: endpoints, queue, limits, keys and metrics, on LitServe
"""
