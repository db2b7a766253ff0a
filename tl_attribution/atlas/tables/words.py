"""Antonyms and synonyms in English, French and Spanish.

A row is one concept pair: each side in the three languages, then a synonym of the first side.
French and Spanish adjectives stand in the masculine singular. Within one language no word stands
twice in the two antonym columns, so "the opposite of X" has one answer.
"""

from __future__ import annotations

from typing import NamedTuple

LANGUAGES = ("English", "French", "Spanish")


class Antonym(NamedTuple):
    """Words by language, in the order of :data:`LANGUAGES`."""

    first: tuple[str, str, str]
    second: tuple[str, str, str]
    synonym_of_first: tuple[str, str, str]


_ROWS = """
small petit pequeño|large grand grande|little minuscule chico
hot chaud caliente|cold froid frío|boiling brûlant ardiente
fast rapide rápido|slow lent lento|quick prompt veloz
old vieux viejo|young jeune joven|aged âgé anciano
rich riche rico|poor pauvre pobre|wealthy fortuné adinerado
happy heureux feliz|sad triste triste|glad joyeux contento
strong fort fuerte|weak faible débil|powerful puissant poderoso
high haut alto|low bas bajo|lofty élevé elevado
open ouvert abierto|closed fermé cerrado|unlocked déverrouillé destapado
full plein lleno|empty vide vacío|filled rempli repleto
light léger ligero|heavy lourd pesado|weightless aérien liviano
clean propre limpio|dirty sale sucio|spotless impeccable impecable
wet mouillé mojado|dry sec seco|soaked trempé empapado
hard dur duro|soft mou blando|firm ferme firme
easy facile fácil|difficult difficile difícil|simple simple sencillo
good bon bueno|bad mauvais malo|fine excellent excelente
new nouveau nuevo|worn usé usado|recent récent reciente
beautiful beau hermoso|ugly laid feo|pretty joli bonito
brave courageux valiente|cowardly lâche cobarde|bold hardi audaz
true vrai verdadero|false faux falso|correct exact cierto
thick épais grueso|thin mince delgado|dense dense denso
wide large ancho|narrow étroit estrecho|broad vaste amplio
deep profond profundo|shallow superficiel superficial|bottomless abyssal hondo
loud bruyant ruidoso|quiet silencieux silencioso|noisy assourdissant estruendoso
early précoce temprano|late tardif tardío|premature prématuré prematuro
first premier primero|last dernier último|initial initial inicial
near proche cercano|far lointain lejano|close voisin vecino
sweet sucré dulce|bitter amer amargo|sugary mielleux azucarado
smart intelligent inteligente|stupid stupide estúpido|clever astucioso listo
kind gentil amable|cruel cruel cruel|nice aimable gentil
alive vivant vivo|dead mort muerto|living animé viviente
public public público|private privé privado|common commun común
rare rare raro|frequent fréquent frecuente|unusual insolite insólito
safe sûr seguro|dangerous dangereux peligroso|secure protégé protegido
calm calme tranquilo|nervous nerveux nervioso|peaceful paisible sereno
lazy paresseux perezoso|active actif activo|idle oisif ocioso
generous généreux generoso|stingy avare tacaño|giving charitable dadivoso
polite poli educado|rude grossier grosero|courteous courtois cortés
straight droit recto|crooked tordu torcido|direct direct directo
sharp aigu agudo|blunt émoussé romo|pointed pointu puntiagudo
cheap abordable barato|expensive cher caro|inexpensive économique económico
winner gagnant ganador|loser perdant perdedor|victor vainqueur vencedor
friend ami amigo|enemy ennemi enemigo|companion compagnon compañero
day jour día|night nuit noche|daytime journée jornada
war guerre guerra|peace paix paz|conflict conflit conflicto
love amour amor|hate haine odio|affection tendresse cariño
"""


def _parse(rows: str) -> tuple[Antonym, ...]:
    def words(cell: str) -> tuple[str, str, str]:
        english, french, spanish = cell.split()
        return english, french, spanish

    return tuple(Antonym(*map(words, row.split("|"))) for row in rows.strip().splitlines())


ANTONYMS: tuple[Antonym, ...] = _parse(_ROWS)
