"""The 50 US states: capital, region (US Census Bureau) and five or more cities each.

City names that stand in more than one state's list of large cities are left out, so that "the
state containing X" has one answer.
"""

from __future__ import annotations

from typing import NamedTuple


class State(NamedTuple):
    """One state; ``cities`` never holds the capital."""

    name: str
    capital: str
    region: str
    cities: tuple[str, ...]


_ROWS = """
Alabama|Montgomery|South|Birmingham,Huntsville,Mobile,Tuscaloosa,Hoover,Dothan
Alaska|Juneau|West|Anchorage,Fairbanks,Sitka,Ketchikan,Wasilla
Arizona|Phoenix|West|Tucson,Mesa,Chandler,Scottsdale,Tempe,Flagstaff,Yuma
Arkansas|Little Rock|South|Fort Smith,Jonesboro,Bentonville,Hot Springs,Pine Bluff
California|Sacramento|West|Los Angeles,San Diego,San Francisco,Fresno,Oakland,Long Beach,Bakersfield,Anaheim
Colorado|Denver|West|Colorado Springs,Boulder,Fort Collins,Pueblo,Durango
Connecticut|Hartford|Northeast|Bridgeport,New Haven,Stamford,Waterbury,Norwalk
Delaware|Dover|South|Rehoboth Beach,New Castle,Lewes,Seaford,Harrington
Florida|Tallahassee|South|Miami,Tampa,Orlando,Jacksonville,Fort Lauderdale,Gainesville,Pensacola
Georgia|Atlanta|South|Savannah,Macon,Marietta,Valdosta,Sandy Springs
Hawaii|Honolulu|West|Hilo,Kailua,Pearl City,Waipahu,Kahului
Idaho|Boise|West|Idaho Falls,Pocatello,Nampa,Twin Falls,Coeur d'Alene
Illinois|Springfield|Midwest|Chicago,Peoria,Naperville,Joliet,Champaign,Rockford
Indiana|Indianapolis|Midwest|Fort Wayne,Evansville,South Bend,Gary,Terre Haute
Iowa|Des Moines|Midwest|Cedar Rapids,Davenport,Sioux City,Iowa City,Dubuque
Kansas|Topeka|Midwest|Wichita,Overland Park,Olathe,Salina,Dodge City
Kentucky|Frankfort|South|Louisville,Lexington,Bowling Green,Owensboro,Paducah
Louisiana|Baton Rouge|South|New Orleans,Shreveport,Lafayette,Lake Charles,Monroe
Maine|Augusta|Northeast|Lewiston,Bangor,Biddeford,Bar Harbor,Kennebunk
Maryland|Annapolis|South|Baltimore,Frederick,Rockville,Gaithersburg,Hagerstown
Massachusetts|Boston|Northeast|Worcester,Cambridge,Lowell,Brockton,Quincy,New Bedford
Michigan|Lansing|Midwest|Detroit,Grand Rapids,Ann Arbor,Flint,Kalamazoo,Dearborn
Minnesota|Saint Paul|Midwest|Minneapolis,Duluth,Moorhead,Saint Cloud,Mankato
Mississippi|Jackson|South|Gulfport,Biloxi,Hattiesburg,Tupelo,Natchez
Missouri|Jefferson City|Midwest|Saint Louis,Branson,Independence,Joplin,Hannibal
Montana|Helena|West|Billings,Missoula,Bozeman,Butte,Great Falls
Nebraska|Lincoln|Midwest|Omaha,Hastings,Grand Island,Kearney,North Platte
Nevada|Carson City|West|Las Vegas,Reno,Henderson,Sparks,Elko
New Hampshire|Concord|Northeast|Nashua,Keene,Derry,Laconia,Merrimack
New Jersey|Trenton|Northeast|Newark,Jersey City,Paterson,Atlantic City,Hoboken,Camden
New Mexico|Santa Fe|West|Albuquerque,Las Cruces,Roswell,Taos,Los Alamos
New York|Albany|Northeast|New York City,Buffalo,Utica,Syracuse,Yonkers,Ithaca
North Carolina|Raleigh|South|Charlotte,Greensboro,Durham,Winston-Salem,Asheville
North Dakota|Bismarck|Midwest|Fargo,Grand Forks,Minot,Williston,Dickinson
Ohio|Columbus|Midwest|Cleveland,Cincinnati,Toledo,Akron,Dayton,Youngstown
Oklahoma|Oklahoma City|South|Tulsa,Broken Arrow,Enid,Stillwater,Muskogee
Oregon|Salem|West|Eugene,Bend,Gresham,Medford,Corvallis,Beaverton
Pennsylvania|Harrisburg|Northeast|Philadelphia,Pittsburgh,Allentown,Erie,Scranton,Bethlehem
Rhode Island|Providence|Northeast|Warwick,Cranston,Pawtucket,Newport,Woonsocket
South Carolina|Columbia|South|Myrtle Beach,Rock Hill,Sumter,Spartanburg,Hilton Head
South Dakota|Pierre|Midwest|Sioux Falls,Rapid City,Deadwood,Brookings,Mitchell
Tennessee|Nashville|South|Memphis,Knoxville,Chattanooga,Murfreesboro,Gatlinburg
Texas|Austin|South|Dallas,Houston,San Antonio,El Paso,Fort Worth,Lubbock,Amarillo,Laredo
Utah|Salt Lake City|West|Provo,Ogden,Moab,Saint George,Park City
Vermont|Montpelier|Northeast|Burlington,Rutland,Brattleboro,Stowe,Bennington
Virginia|Richmond|South|Virginia Beach,Norfolk,Roanoke,Alexandria,Charlottesville,Chesapeake
Washington|Olympia|West|Seattle,Spokane,Tacoma,Yakima,Everett,Walla Walla
West Virginia|Charleston|South|Huntington,Morgantown,Wheeling,Parkersburg,Beckley
Wisconsin|Madison|Midwest|Milwaukee,Green Bay,Kenosha,Racine,Oshkosh,Eau Claire
Wyoming|Cheyenne|West|Casper,Laramie,Cody,Gillette,Sheridan
"""


def _parse(rows: str) -> tuple[State, ...]:
    out = []
    for row in rows.strip().splitlines():
        name, capital, region, cities = row.split("|")
        out.append(State(name, capital, region, tuple(cities.split(","))))
    return tuple(out)


STATES: tuple[State, ...] = _parse(_ROWS)
