"""A small VNC server (RFB 3.8, RFC 6143) that draws something moving and what you do.

Run it: python -m wsserver.services.rfb_demo PORT [WIDTHxHEIGHT]

It speaks security type None and the Raw encoding, in 32-bit true colour of any byte
order, and sends the rectangles that changed.  It listens on loopback only.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import sys
import time
from collections.abc import Iterable
from colorsys import hsv_to_rgb
from math import isqrt

Rect = tuple[int, int, int, int]
Color = tuple[int, int, int]

BACK: Color = (24, 28, 38)
PANEL: Color = (34, 40, 54)
INK: Color = (232, 235, 241)
SOFT: Color = (150, 160, 180)
MARK: Color = (255, 184, 77)

#: Pictures a second, while somebody looks.
RATE = 20
RADIUS = 28

# Five bits a row, seven rows a glyph, a digit of base 32 each.
_FONT = r"""
A=EHHVHHH B=UHHUHHU C=EHGGGHE D=UHHHHHU E=VGGUGGV F=VGGUGGG G=EHGNHHE H=HHHVHHH
I=E44444E J=72222IC K=HIKOKIH L=GGGGGGV M=HRLLHHH N=HHPLJHH O=EHHHHHE P=UHHUGGG
Q=EHHHLID R=UHHUKIH S=FGGE11U T=V444444 U=HHHHHHE V=HHHHHA4 W=HHHLLLA X=HHA4AHH
Y=HHA4444 Z=V1248GV 0=EHJLPHE 1=4C4444E 2=EH1248V 3=V2421HE 4=26AIV22 5=VGU11HE
6=68GUHHE 7=V124888 8=EHHEHHE 9=EHHF12C .=00000CC ,=0000CC8 :=0CC0CC0 ;=0CC0CC8
!=4444404 ?=EH12404 '=4480000 "=AA00000 -=000V000 _=000000V +=044V440 ==00V0V00
/=01248G0 \=0G84210 (=2488842 )=8422248 [=E88888E ]=E22222E <=248G842 >=8421248
*=04LEL40 #=AAVAVAA @=EHNLNGF %=PP248JJ &=CIKCLID $=4FKE5U4 |=4444444 ~=008L200
^=4AH0000 `=8420000 {=6448446 }=C44244C
"""
_GLYPHS = {pair[0]: pair[2:] for pair in _FONT.split()}


class Picture:
    """Red, green, blue and an unused byte for each pixel; knows what has changed."""

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.height = height
        self.pixels = bytearray(width * height * 4)
        self.changed: list[Rect] = []

    def fill(self, x: int, y: int, width: int, height: int, color: Color) -> None:
        """Fill a rectangle, cut at the edges."""
        left, top = max(0, x), max(0, y)
        right, bottom = min(self.width, x + width), min(self.height, y + height)
        if right <= left or bottom <= top:
            return
        row = bytes((*color, 0)) * (right - left)
        for line in range(top, bottom):
            start = (line * self.width + left) * 4
            self.pixels[start : start + len(row)] = row
        self.changed.append((left, top, right - left, bottom - top))

    def text(self, x: int, y: int, text: str, color: Color, scale: int = 2) -> None:
        """Draw a line of text in capitals."""
        for place, letter in enumerate(text.upper()):
            left = x + place * 6 * scale
            for down, digit in enumerate(_GLYPHS.get(letter, "0000000")):
                bits = int(digit, 32)
                for across in range(5):
                    if bits & (16 >> across):
                        at = (left + across * scale, y + down * scale)
                        self.fill(*at, scale, scale, color)

    def disc(self, x: int, y: int, radius: int, color: Color) -> None:
        """Draw a filled circle."""
        for down in range(-radius, radius + 1):
            half = isqrt(radius * radius - down * down)
            self.fill(x - half, y + down, 2 * half + 1, 1, color)

    def crop(self, rect: Rect) -> bytes:
        """Return the pixels of a rectangle, row by row."""
        x, y, width, height = rect
        lines = range(y, y + height)
        starts = ((line * self.width + x) * 4 for line in lines)
        return b"".join(self.pixels[start : start + width * 4] for start in starts)


def bounds(rects: Iterable[Rect]) -> Rect:
    """Return the smallest rectangle around some others."""
    corners = [(x, y, x + w, y + h) for x, y, w, h in rects]
    left, top = min(c[0] for c in corners), min(c[1] for c in corners)
    return left, top, max(c[2] for c in corners) - left, max(c[3] for c in corners) - top


class Scene:
    """What is to be seen: a disc that moves, what was typed, where was clicked."""

    def __init__(self, width: int, height: int) -> None:
        self.picture = Picture(width, height)
        self.frame = 0
        self.typed = ""
        self._listeners: list[list[Rect]] = []
        self._stage = (24, height // 2, width - 48, height - height // 2 - 24)
        self._columns = max(1, (width - 72) // 12)
        self._pressed = False
        self._ball = (self._stage[0] + RADIUS, self._stage[1] + RADIUS)
        self._step = (7, 5)
        self._draw_all()

    def listen(self) -> list[Rect]:
        """Return a list that will get every rectangle that changes; whole at first."""
        changes: list[Rect] = [(0, 0, self.picture.width, self.picture.height)]
        self._listeners.append(changes)
        return changes

    def forget(self, changes: list[Rect]) -> None:
        """Tell no more of changes."""
        self._listeners = [other for other in self._listeners if other is not changes]

    def tick(self) -> None:
        """Move the disc by a step."""
        self.frame += 1
        x, y, width, height = self._stage
        old = self._ball
        across, down = self._step
        if not x + RADIUS <= old[0] + across < x + width - RADIUS:
            across = -across
        if not y + RADIUS <= old[1] + down < y + height - RADIUS:
            down = -down
        self._step = (across, down)
        self._ball = (old[0] + across, old[1] + down)
        self.picture.disc(*old, RADIUS, PANEL)
        self.picture.disc(*self._ball, RADIUS, _hue(self.frame / 200))
        self._publish()
        self._draw_clock()

    def key(self, keysym: int) -> None:
        """Show a key: letters, Return and Backspace."""
        if keysym == 0xFF08:
            self.typed = self.typed[:-1]
        elif keysym == 0xFF0D:
            self.typed += " " * (self._columns - len(self.typed) % self._columns)
        elif 0x20 <= keysym < 0x7F:
            self.typed += chr(keysym)
        else:
            return
        # Three lines are kept; a full box begins anew.
        if len(self.typed) >= 3 * self._columns:
            self.typed = self.typed[2 * self._columns :]
        self._draw_typed()

    def pointer(self, buttons: int, x: int, y: int) -> None:
        """Mark the place of a click."""
        if buttons & 1 and not self._pressed:
            self.picture.fill(x - 10, y - 1, 21, 3, MARK)
            self.picture.fill(x - 1, y - 10, 3, 21, MARK)
            self._publish()
        self._pressed = bool(buttons & 1)

    def _draw_all(self) -> None:
        picture = self.picture
        picture.fill(0, 0, picture.width, picture.height, BACK)
        picture.fill(*self._stage, PANEL)
        picture.text(24, 24, "wsserver demo", INK, 4)
        picture.text(24, 72, "Type something, or click anywhere.", SOFT)
        self._draw_typed()
        self._draw_clock()

    def _draw_typed(self) -> None:
        self.picture.fill(24, 104, self.picture.width - 48, 80, PANEL)
        for number in range(3):
            line = self.typed[number * self._columns : (number + 1) * self._columns]
            self.picture.text(36, 114 + number * 24, line, MARK)
        cursor = len(self.typed)
        at = (36 + cursor % self._columns * 12, 114 + cursor // self._columns * 24)
        self.picture.fill(*at, 2, 14, INK)
        self._publish()

    def _draw_clock(self) -> None:
        text = f"{time.strftime('%H:%M:%S')}  frame {self.frame}"
        self.picture.fill(24, 204, 28 * 12, 14, BACK)
        self.picture.text(24, 204, text, SOFT)
        self._publish()

    def _publish(self) -> None:
        """Tell all listeners of one rectangle around what was just drawn."""
        if not self.picture.changed:
            return
        rect = bounds(self.picture.changed)
        self.picture.changed.clear()
        for changes in self._listeners:
            if rect not in changes:
                changes.append(rect)


def _hue(turn: float) -> Color:
    red, green, blue = hsv_to_rgb(turn % 1, 0.55, 1.0)
    return int(red * 255), int(green * 255), int(blue * 255)


class Viewer:
    """The server's side of one RFB connection."""

    def __init__(
        self, scene: Scene, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._scene = scene
        self._reader = reader
        self._writer = writer
        self._order = (0, 1, 2)
        self._wanted = asyncio.Event()

    async def serve(self) -> None:
        """Speak until the client has gone, or makes no sense."""
        changes = self._scene.listen()
        try:
            await self._greet()
            async with asyncio.TaskGroup() as tasks:
                updating = tasks.create_task(self._update(changes))
                await self._listen(changes)
                updating.cancel()
        except* (ConnectionError, asyncio.IncompleteReadError, ValueError):
            pass
        finally:
            self._scene.forget(changes)
            self._writer.close()

    async def _greet(self) -> None:
        self._writer.write(b"RFB 003.008\n")
        version = await self._reader.readexactly(12)
        if version not in (b"RFB 003.008\n", b"RFB 003.007\n"):
            raise ValueError(version)
        self._writer.write(bytes((1, 1)))
        await self._reader.readexactly(1)
        if version == b"RFB 003.008\n":
            self._writer.write(struct.pack(">I", 0))
        await self._reader.readexactly(1)
        picture, name = self._scene.picture, b"wsserver demo"
        pixel_format = struct.pack(">BBBBHHHBBBxxx", 32, 24, 0, 1, 255, 255, 255, 0, 8, 16)
        head = struct.pack(">HH", picture.width, picture.height)
        self._writer.write(head + pixel_format + struct.pack(">I", len(name)) + name)

    async def _listen(self, changes: list[Rect]) -> None:
        read = self._reader.readexactly
        while True:
            kind = (await read(1))[0]
            if kind == 0:
                self._set_format(await read(19))
            elif kind == 2:
                _, count = struct.unpack(">BH", await read(3))
                await read(4 * count)
            elif kind == 3:
                incremental, *rect = struct.unpack(">B4H", await read(9))
                if not incremental:
                    changes.append(self._inside(*rect))
                self._wanted.set()
            elif kind == 4:
                down, key = struct.unpack(">BxxI", await read(7))
                if down:
                    self._scene.key(key)
            elif kind == 5:
                self._scene.pointer(*struct.unpack(">BHH", await read(5)))
            elif kind == 6:
                (length,) = struct.unpack(">xxxI", await read(7))
                await read(min(length, 1 << 20))
            else:
                raise ValueError(kind)

    def _inside(self, x: int, y: int, width: int, height: int) -> Rect:
        picture = self._scene.picture
        x, y = min(x, picture.width), min(y, picture.height)
        return x, y, min(width, picture.width - x), min(height, picture.height - y)

    def _set_format(self, message: bytes) -> None:
        bits, _, big, true_color, *_rest = struct.unpack(">xxxBBBBHHHBBBxxx", message)
        shifts = _rest[3:]
        if bits != 32 or not true_color or sorted(s % 8 for s in shifts) != [0, 0, 0]:
            raise ValueError("32-bit true colour only")
        red, green, blue = ((3 - s // 8) if big else s // 8 for s in shifts)
        self._order = (red, green, blue)

    async def _update(self, changes: list[Rect]) -> None:
        """Answer each request once there is something new."""
        while True:
            await self._wanted.wait()
            while not changes:
                await asyncio.sleep(1 / RATE / 2)
            self._wanted.clear()
            rects = list(changes)
            changes.clear()
            self._writer.write(struct.pack(">BxH", 0, len(rects)))
            for rect in rects:
                self._writer.write(struct.pack(">4Hi", *rect, 0) + self._colors(rect))
            await self._writer.drain()

    def _colors(self, rect: Rect) -> bytes:
        pixels = self._scene.picture.crop(rect)
        if self._order == (0, 1, 2):
            return pixels
        sent = bytearray(len(pixels))
        for channel, place in enumerate(self._order):
            sent[place::4] = pixels[channel::4]
        return bytes(sent)


async def serve(port: int, size: str) -> None:
    """Serve one scene on a port of the loopback address, for ever."""
    width, height = (max(64, min(int(part), 4096)) for part in size.split("x"))
    scene = Scene(width, height)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await Viewer(scene, reader, writer).serve()

    async with await asyncio.start_server(connected, "127.0.0.1", port):
        while True:
            await asyncio.sleep(1 / RATE)
            scene.tick()


def main(argv: list[str]) -> None:
    """Run the server: PORT [WIDTHxHEIGHT]."""
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(int(argv[0]), argv[1] if len(argv) > 1 else "1024x768"))


if __name__ == "__main__":
    main(sys.argv[1:])
