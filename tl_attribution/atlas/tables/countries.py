"""Countries: capital, continent, an official or most spoken language, currency, other cities.

"Currency" is the unit's common English name, so several countries share one (euro, peso, dollar).
"""

from __future__ import annotations

from typing import NamedTuple


class Country(NamedTuple):
    """One country; ``cities`` never holds the capital."""

    name: str
    capital: str
    continent: str
    language: str
    currency: str
    cities: tuple[str, ...]


_ROWS = """
France|Paris|Europe|French|euro|Lyon,Marseille,Toulouse,Nice
Germany|Berlin|Europe|German|euro|Munich,Hamburg,Cologne,Dresden
Spain|Madrid|Europe|Spanish|euro|Barcelona,Seville,Bilbao,Malaga
Italy|Rome|Europe|Italian|euro|Milan,Naples,Turin,Venice
Portugal|Lisbon|Europe|Portuguese|euro|Porto,Braga,Coimbra
Netherlands|Amsterdam|Europe|Dutch|euro|Rotterdam,Utrecht,Eindhoven
Greece|Athens|Europe|Greek|euro|Thessaloniki,Patras,Heraklion
Austria|Vienna|Europe|German|euro|Salzburg,Graz,Linz
Ireland|Dublin|Europe|English|euro|Cork,Galway,Limerick
Finland|Helsinki|Europe|Finnish|euro|Tampere,Turku,Oulu
Poland|Warsaw|Europe|Polish|zloty|Krakow,Gdansk,Poznan
Sweden|Stockholm|Europe|Swedish|krona|Gothenburg,Uppsala,Lund
Norway|Oslo|Europe|Norwegian|krone|Bergen,Trondheim,Stavanger
Denmark|Copenhagen|Europe|Danish|krone|Aarhus,Odense,Aalborg
Iceland|Reykjavik|Europe|Icelandic|krona|Akureyri,Keflavik,Husavik
Hungary|Budapest|Europe|Hungarian|forint|Debrecen,Szeged,Pecs
Romania|Bucharest|Europe|Romanian|leu|Cluj,Timisoara,Brasov
Czechia|Prague|Europe|Czech|koruna|Brno,Ostrava,Pilsen
Ukraine|Kyiv|Europe|Ukrainian|hryvnia|Odesa,Lviv,Kharkiv
Russia|Moscow|Europe|Russian|ruble|Kazan,Novosibirsk,Samara
Switzerland|Bern|Europe|German|franc|Zurich,Geneva,Basel
England|London|Europe|English|pound|Manchester,Liverpool,Leeds
Turkey|Ankara|Asia|Turkish|lira|Istanbul,Izmir,Antalya
Israel|Jerusalem|Asia|Hebrew|shekel|Haifa,Tel Aviv,Eilat
Iran|Tehran|Asia|Persian|rial|Isfahan,Shiraz,Tabriz
Iraq|Baghdad|Asia|Arabic|dinar|Basra,Mosul,Najaf
India|New Delhi|Asia|Hindi|rupee|Mumbai,Kolkata,Chennai
Pakistan|Islamabad|Asia|Urdu|rupee|Karachi,Lahore,Peshawar
Bangladesh|Dhaka|Asia|Bengali|taka|Chittagong,Khulna,Sylhet
Nepal|Kathmandu|Asia|Nepali|rupee|Pokhara,Lalitpur,Biratnagar
China|Beijing|Asia|Mandarin|yuan|Shanghai,Shenzhen,Wuhan
Japan|Tokyo|Asia|Japanese|yen|Osaka,Kyoto,Sapporo
South Korea|Seoul|Asia|Korean|won|Busan,Incheon,Daegu
Vietnam|Hanoi|Asia|Vietnamese|dong|Da Nang,Hue,Haiphong
Thailand|Bangkok|Asia|Thai|baht|Chiang Mai,Phuket,Pattaya
Malaysia|Kuala Lumpur|Asia|Malay|ringgit|Ipoh,Kuching,Malacca
Philippines|Manila|Asia|Filipino|peso|Cebu,Davao,Baguio
Mongolia|Ulaanbaatar|Asia|Mongolian|tugrik|Erdenet,Darkhan,Choibalsan
Egypt|Cairo|Africa|Arabic|pound|Giza,Luxor,Aswan
Morocco|Rabat|Africa|Arabic|dirham|Casablanca,Marrakesh,Fez
Kenya|Nairobi|Africa|Swahili|shilling|Mombasa,Kisumu,Nakuru
Ethiopia|Addis Ababa|Africa|Amharic|birr|Gondar,Lalibela,Dire Dawa
Nigeria|Abuja|Africa|English|naira|Lagos,Kano,Ibadan
Ghana|Accra|Africa|English|cedi|Kumasi,Tamale,Cape Coast
Senegal|Dakar|Africa|French|franc|Thies,Kaolack,Ziguinchor
Mexico|Mexico City|North America|Spanish|peso|Guadalajara,Monterrey,Cancun
Canada|Ottawa|North America|English|dollar|Toronto,Vancouver,Montreal
Cuba|Havana|North America|Spanish|peso|Varadero,Holguin,Camaguey
Brazil|Brasilia|South America|Portuguese|real|Sao Paulo,Rio de Janeiro,Recife
Argentina|Buenos Aires|South America|Spanish|peso|Rosario,Mendoza,Salta
Chile|Santiago|South America|Spanish|peso|Valparaiso,Antofagasta,Iquique
Peru|Lima|South America|Spanish|sol|Cusco,Arequipa,Trujillo
Colombia|Bogota|South America|Spanish|peso|Medellin,Cali,Cartagena
Australia|Canberra|Oceania|English|dollar|Sydney,Melbourne,Perth
New Zealand|Wellington|Oceania|English|dollar|Auckland,Christchurch,Dunedin
"""


def _parse(rows: str) -> tuple[Country, ...]:
    out = []
    for row in rows.strip().splitlines():
        name, capital, continent, language, currency, cities = row.split("|")
        out.append(Country(name, capital, continent, language, currency, tuple(cities.split(","))))
    return tuple(out)


COUNTRIES: tuple[Country, ...] = _parse(_ROWS)
