# SPDX-License-Identifier: Apache-2.0
"""
Where providers may say that a job has ended: one address, off unless it is set up.
"""

from __future__ import annotations

from aiohttp import web

from services.router.usecases.take_webhook import TakeWebhook, WebhookRefusedError
from services.shared.errors import ServiceError
from services.shared.logging import get_logger

PATH = "/webhooks/replicate"
BODY_BYTES_MAX = 1024 * 1024

log = get_logger()


def webhook_app(take: TakeWebhook) -> web.Application:
    """
    Give the application.
    """

    async def replicate(request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            known = await take(headers, await request.read())
        except WebhookRefusedError as refusal:
            # Its own sentence: nothing of the webhook is in it.
            log.warning("webhook_refused", why=str(refusal))
            return web.Response(status=401, text=f"{refusal}\n")
        except ServiceError as error:
            log.warning("webhook_not_taken", error=type(error).__name__)
            return web.Response(status=503, text="try again later\n")
        log.info("webhook_taken", known=known)
        return web.Response(status=204)

    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.add_routes([web.post(PATH, replicate)])
    return app
