"""People with one well-known sport or profession, and the name parts strangers are made of.

A stranger is a first and a last name that occur in these tables but never together: the right
answer about a stranger is "unknown".
"""

from __future__ import annotations

from typing import NamedTuple


class Person(NamedTuple):
    """One person; ``kind`` is ``sport`` or ``profession`` and ``what`` its name."""

    first: str
    last: str
    kind: str
    what: str

    @property
    def name(self) -> str:
        """First and last name with a space between them."""
        return f"{self.first} {self.last}"


_ROWS = """
sport|basketball|Michael Jordan,LeBron James,Larry Bird,Stephen Curry,Kobe Bryant,Magic Johnson
sport|tennis|Roger Federer,Serena Williams,Rafael Nadal,Steffi Graf,Andre Agassi,Martina Navratilova
sport|soccer|Lionel Messi,David Beckham,Diego Maradona,Mia Hamm,Cristiano Ronaldo,Wayne Rooney
sport|golf|Tiger Woods,Jack Nicklaus,Arnold Palmer,Phil Mickelson,Annika Sorenstam,Rory McIlroy
sport|boxing|Muhammad Ali,Mike Tyson,Joe Frazier,George Foreman,Joe Louis,Floyd Mayweather
sport|swimming|Mark Spitz,Katie Ledecky,Ian Thorpe,Ryan Lochte,Janet Evans,Missy Franklin
sport|baseball|Willie Mays,Derek Jeter,Hank Aaron,Mickey Mantle,Lou Gehrig,Sandy Koufax
sport|hockey|Wayne Gretzky,Gordie Howe,Bobby Orr,Mario Lemieux,Sidney Crosby,Patrick Roy
sport|chess|Garry Kasparov,Magnus Carlsen,Bobby Fischer,Anatoly Karpov,Judit Polgar,Hikaru Nakamura
sport|cycling|Greg LeMond,Eddy Merckx,Chris Froome,Miguel Indurain,Bernard Hinault,Mark Cavendish
profession|physicist|Albert Einstein,Isaac Newton,Niels Bohr,Richard Feynman,Max Planck,Paul Dirac
profession|painter|Pablo Picasso,Claude Monet,Frida Kahlo,Henri Matisse,Salvador Dali,Paul Cezanne
profession|composer|Johann Bach,Clara Schumann,Franz Schubert,Igor Stravinsky,Claude Debussy,Joseph Haydn
profession|writer|Jane Austen,Mark Twain,Charles Dickens,Virginia Woolf,Ernest Hemingway,Leo Tolstoy
profession|actor|Tom Hanks,Meryl Streep,Marlon Brando,Audrey Hepburn,Humphrey Bogart,Julia Roberts
profession|singer|Elvis Presley,Aretha Franklin,Frank Sinatra,Bob Dylan,Tina Turner,Freddie Mercury
profession|astronaut|Neil Armstrong,Buzz Aldrin,Sally Ride,John Glenn,Yuri Gagarin,Mae Jemison
profession|philosopher|Immanuel Kant,David Hume,John Locke,Friedrich Nietzsche,Hannah Arendt,Bertrand Russell
profession|mathematician|Leonhard Euler,Emmy Noether,Carl Gauss,Alan Turing,Henri Poincare,David Hilbert
profession|director|Alfred Hitchcock,Steven Spielberg,Stanley Kubrick,Sofia Coppola,Orson Welles,Ingmar Bergman
"""


def _parse(rows: str) -> tuple[Person, ...]:
    out = []
    for row in rows.strip().splitlines():
        kind, what, names = row.split("|")
        for name in names.split(","):
            first, last = name.split(" ")
            out.append(Person(first, last, kind, what))
    return tuple(out)


PEOPLE: tuple[Person, ...] = _parse(_ROWS)
FIRST_NAMES: tuple[str, ...] = tuple(dict.fromkeys(p.first for p in PEOPLE))
LAST_NAMES: tuple[str, ...] = tuple(dict.fromkeys(p.last for p in PEOPLE))
