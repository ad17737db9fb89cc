"""A shop: orders come in over HTTP, and jobs see to the rest.

    cd examples
    uvicorn fastapi_app.main:app              # serves, and runs jobs
    SHOP_WEB_ONLY=1 uvicorn fastapi_app.main:app    # serves only …
    python -m fastapi_app.worker              # … with as many of these beside it as you like

All of them use the database in `$MONQUE_URI`.
"""
